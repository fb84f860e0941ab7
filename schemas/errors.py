"""One tree of errors. Each says what is wrong, where, and the command that mends it.

A class's docstring is its entry in docs/runbook.md (``flows/runbook.py``): what it means, what one sees, what mends it.
"""


class TapstateError(Exception):
    """Base of every error tapstate raises on purpose.

    Args:
        what: what is wrong, in one sentence.
        where: the file, record, version or option it concerns.
        mend: a command or action that mends it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        super().__init__(what, where, mend)
        self.what, self.where, self.mend = what, where, mend

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text += f" ({self.where})"
        if self.mend:
            text += f"\n  mend: {self.mend}"
        return text

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.mend))


def _rebuild(kind: type[TapstateError], what: str, where: str, mend: str) -> TapstateError:
    return kind(what, where=where, mend=mend)


class ConfigError(TapstateError, ValueError):
    """An option, or a value of ``config.toml``, that cannot be used.

    See: a setting that is unknown or out of its range, by name and line; an option without what it needs; an encoder, an LLM, an
    onnxruntime provider or an extra that is not installed; ``tapstate ui`` or ``serve`` open to strangers without a token.

    Mend: change the option, or the setting that the message names (configuration.md has them all); install what it says is missing.
    """

    exit_code = 2


class InputError(TapstateError, ValueError):
    """An input that cannot be read at all: no such file, no such column, not the format it says.

    See: at ``ingest``, the file or column and the columns that are there; at ``sql``, what Polars says of the query; at ``pull``, what the
    store says; at ``train``, too few events, too many tasks.

    Mend: correct the path, the ``--map`` or the query, and run the command again: what an ingest had read already does not count twice.
    Single bad rows are no error: they are in the table ``rejects``, each with its reason.
    """


class HomeError(TapstateError):
    """No home there, one that a later release wrote, or a place that cannot be read or written now.

    See: "no tapstate home there"; "a later release … wrote this record"; "no space left"; "not allowed"; "cannot reach the home"; "was
    compacted and cleaned while it was read".

    Mend: look at ``--home``, ``TAPSTATE_HOME``, credentials, permissions and the connection; free space (``tapstate maintain`` shows what
    it would free) or install the release that is named. Then run the same command again: nothing half-written counts, what was whole still
    does.
    """


class NotFoundError(TapstateError, LookupError):
    """A version, alias, line, model, bundle or user that does not exist, or no longer.

    See: "no user … at version …"; "version 3 was retired on …"; "no head fits aggregator …"; "the bundle was withdrawn".

    Mend: ``tapstate versions``, ``versions --moves`` and ``lines`` list what there is; ids are exact, case included. Where nothing is there
    yet, the message names the command that makes it. A withdrawn bundle held users who were erased: pull the one that ``CURRENT`` names.
    """


class ConflictError(TapstateError):
    """Another writer was first; names the winner. What was there before stands.

    See: "… is under way: …, process …, holds it until …"; "… names version 7, not 6, moved by …"; "users were erased while this refresh
    ran"; "was changed by another writer at the same time"; a port that is taken.

    Mend: wait for the other one, look whether you still want it, and run the command again. A holder that died is taken over once its three
    minutes are over; ``tapstate doctor`` shows who holds what.
    """

    exit_code = 4


class CompatibilityError(TapstateError, ValueError):
    """Two artifacts that do not belong together, both named by hash: encoder and states, head and states, bundle and LLM.

    See: "version 12 was made with encoder …, the one found is …"; "head … fits aggregator …, version 12 has …"; "a bundle for …, not for
    …"; a server that goes on with its old bundle since the new one is for another LLM,
    has another LoRA or other tasks.

    Mend: put the old model's files back where they were (``tapstate lines`` tells where), or mean the change: ``tapstate train`` opens a
    line for another encoder, ``train --head-only --llm`` fits a head to another LLM, and a server of its own serves it.
    """


class CorruptError(TapstateError):
    """Stored bytes that are not what their record or manifest says. They were changed, cut short or lost after they were written.

    See: the record, table, checkpoint or bundle's file by name: "not a valid record"; "table … is damaged"; "a file is not what the
    manifest says"; "record 4 is missing".

    Mend: a bundle is made or pulled again (``tapstate bundle``, ``tapstate pull``), a finished shard is done again by ``tapstate refresh``.
    Records, tables and checkpoints come from a backup of the home; then look at the disk.
    """


class ShardError(TapstateError):
    """Shards of a night that could not be computed; names the first one and its first bad user. The others' work is kept.

    See: "2 of 64 shards failed; shard …", with the user's key and what was raised there. The version before is still served.

    Mend: ``tapstate refresh`` does the failed shards again and keeps the others. If it is one user's events, correct or delete them at
    their source and ingest that; if it is memory, make ``refresh.shard_users`` or ``refresh.shard_events`` smaller.
    """


class ParityError(TapstateError):
    """An exported graph that does not compute what its torch module computes. Nothing was saved.

    See: at the end of ``train``, "the exported graph differs from torch by …".

    Mend: nothing of yours is wrong: it is this set of packages. Install those of ``constraints.txt``, and report it with what ``tapstate
    --version`` prints.
    """


class LeakError(TapstateError):
    """An event of the future in a history that should not have known it. Figures made with it would be too good.

    See: at ``train`` or in an evaluation, how many such events there are and the key of one.

    Mend: evaluate on events that come after the bundle's ``as_of``, or on the bundle of an earlier version. In training it is a fault of
    tapstate: report it.
    """


class CheckError(TapstateError):
    """A version that failed a check before promotion; it is kept, not promoted, and what was served before still is.

    See: "version 12 is kept but not promoted: …, the line is 0.95"; a failed run in Prefect; exit code 5, which ``tapstate doctor`` has too
    when it finds something broken.

    Mend: each check says below what to look at; ``tapstate report 12`` has all figures. If the version is as it should be: ``tapstate
    promote 12 --reason …``. If not, mend events or encoder: later versions are compared
    with what is served, so that they fail until the fault is mended.
    """

    exit_code = 5


class EngineError(TapstateError):
    """An engine that gave up: a runner that cannot be reached, or lost its workers.

    See: "the Beam pipeline stopped: …", and the runner's own last words.

    Mend: look at the runner's own log, then ``tapstate refresh``: finished shards are kept. ``--engine local`` does the night without the
    runner (cluster.md).
    """
