"""The doctor: what is wrong with the environment, the home and its last nights, each finding with its mending command.

It reads every record, which are small, and one column of the newest ingest's events. A check's docstring is its entry in docs/runbook.md.
"""

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version

from flows import rounds
from flows.finding import EVERYTHING, Finding
from schemas.errors import TapstateError
from store.home import Home
from store.lease import dead, living, unique
from store.sweep import dead_plans, pending

#: A clock that is further ahead is wrong, a lease that was held for longer is stuck.
AHEAD, STUCK = timedelta(minutes=5), timedelta(hours=12)
#: Free share of the disk, and packages that must not be there together.
FREE = 0.1
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


def examine(home: Home) -> list[Finding]:
    """Every check; one that cannot be made is a finding itself."""
    found: list[Finding] = []
    for check in CHECKS:
        try:
            found += list(check(home)) or [Finding(check.__name__, "ok", "nothing stands out")]
        except TapstateError as error:
            found.append(Finding(check.__name__, "fail", f"{error.what} ({error.where})", error.mend))
        except ModuleNotFoundError as error:
            found.append(Finding(check.__name__, "warn", f"cannot be looked at: {error.name} is not installed", EVERYTHING))
    return found


def packages(_: Home) -> Iterator[Finding]:
    """Which packages are here that decide answers. ``onnxruntime`` and ``onnxruntime-gpu`` share one folder: with both, neither is sure to
    work.

    See: names and versions, and whether both are there.

    Mend: remove both, then install tapstate again, which takes the right one for the machine.
    """
    there = {}
    for name in (*RUNTIMES, "torch", "lancedb", "pylance", "prefect", "apache-beam", "polars"):
        try:
            there[name] = version(name)
        except PackageNotFoundError:
            continue
    told = ", ".join(f"{name} {number}" for name, number in there.items())
    both = all(name in there for name in RUNTIMES)
    mend = "pip uninstall onnxruntime onnxruntime-gpu; pip install tapstate" if both else ""
    yield Finding("packages", "fail" if both else "ok", f"both {' and '.join(RUNTIMES)}: {told}" if both else told, mend)


def gpu(_: Home) -> Iterator[Finding]:
    """Whether torch sees a GPU. Without one, texts are encoded on the CPU: the same states, later.

    See: the GPU's name, or "none".

    Mend: where there should be one: ``nvidia-smi`` shows whether the driver sees it; then install the torch that is built for that driver.
    """
    import torch

    names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    yield Finding("gpu", "ok", ", ".join(names) or "none: texts are encoded on the CPU")


def place(home: Home) -> Iterator[Finding]:
    """Whether the home can be written, and whether of two writers of one name exactly one wins. Every commit stands on that.

    See: "put-if-absent does not hold", or why nothing can be written.

    Mend: permissions, or credentials. A store without conditional writes (an old S3-type server, some network file systems) cannot hold a
    home.
    """
    probe = unique("doctor")
    won = [home.objects.create(probe, b"1"), home.objects.create(probe, b"2")]
    held = home.objects.get(probe)
    home.objects.remove(probe)
    fine = won == [True, False] and held == b"1"
    what = "can be written; of two writers one wins" if fine else f"put-if-absent does not hold: {won}, {held!r}"
    yield Finding("place", "ok" if fine else "fail", what, "" if fine else "keep the home on a store with conditional writes")


def disk(home: Home) -> Iterator[Finding]:
    """Free space where the home is, if that is a local disk.

    See: how much is free; a warning below a tenth.

    Mend: ``tapstate maintain`` shows what it would free, ``tapstate maintain --yes`` frees it. ``maintain.*`` in ``config.toml`` says how
    much is kept.
    """
    if home.objects.remote:
        return
    usage = shutil.disk_usage(home.uri)
    low = usage.free < FREE * usage.total
    yield Finding(
        "disk",
        "warn" if low else "ok",
        f"{usage.free / 1e9:,.1f} GB of {usage.total / 1e9:,.1f} GB free",
        "tapstate maintain" if low else "",
    )


def records(home: Home) -> Iterator[Finding]:
    """Whether every record and every table's manifest can be read.

    See: how many there are, or the file that cannot be read and why.

    Mend: restore that file from a backup of the home. Records are small and never change.
    """
    counts = {name: len(list(getattr(home, name).all())) for name in ("ingests", "versions", "lines", "retired", "erasures", "receipts")}
    names = home.objects.names("lance")
    for name in names:
        home.tables.open(name.removesuffix(".lance"))
    yield Finding("records", "ok", ", ".join(f"{count} {name}" for name, count in counts.items()) + f", {len(names)} tables")


def erasures(home: Home) -> Iterator[Finding]:
    """Whether an erasure began and did not end. Until it does, traces of the users may be left, and there is no receipt.

    See: "cut off", and the erasures' numbers (``erasures/<n>.json``).

    Mend: ``tapstate erase`` with the same users, again: it takes up where it was.
    """
    finished = {n for receipt in home.receipts.all() for n in (receipt.number, *receipt.finishes)}
    cut_off = [e.number for e in home.erasures.all() if e.kind == "erase" and e.number not in finished]
    if cut_off:
        yield Finding("erasures", "fail", f"cut off: {', '.join(map(str, cut_off))}", "tapstate erase, with the same users, again")


def clock(home: Home) -> Iterator[Finding]:
    """Whether clocks agree: no record, and no event's knowledge time, may lie in the future.

    See: how far ahead the newest record was written and by whom; or which ingest holds events from the future.

    Mend: set the clock there and here by NTP. Correct the source and ingest it again: rows of the same event ids are corrections.
    """
    now = datetime.now(UTC)
    records = [record for ledger in (home.ingests, home.versions) if (record := ledger.get(ledger.last()))]
    ahead = [record for record in records if record.created_at > now + AHEAD]
    if ahead:
        worst = max(ahead, key=lambda record: record.created_at)
        what = f"the newest record was written {worst.created_at - now} from now, by {worst.created_by}"
        yield Finding("clock", "fail", what, "timedatectl set-ntp true, here and there")
    last = home.ingests.get(home.ingests.last())
    if last and last.known_at_max and last.known_at_max > now + AHEAD:
        what = f"ingest {last.number} holds events that are known only from {last.known_at_max:%Y-%m-%d %H:%M} UTC on"
        yield Finding("clock", "warn", what, f"look at the clock of {', '.join(last.sources[:3])}")


def leases(home: Home) -> Iterator[Finding]:
    """Who works on the home now, and whether they live. Leases only spare wasted work; nothing's correctness hangs on one.

    See: what each is doing, who and which process; a holder that is dead, or one that has held its lease for more than twelve hours.

    Mend: a dead one is taken over by the next, or removed by ``tapstate maintain --yes``. One that stands still: look at that process
    there, and end it if it does nothing; whoever comes next takes the work up.
    """
    for name in dead(home):
        yield Finding("leases", "warn", f"{name}: its holder is dead; the next one takes it over", "tapstate maintain --yes")
    for name, record in living(home).items():
        since = record.taken_at or record.created_at
        what = f"{name}: {record.work}, {record.created_by}, process {record.pid}, since {since:%Y-%m-%d %H:%M} UTC"
        if datetime.now(UTC) - since > STUCK:
            yield Finding("leases", "warn", what, f"kill {record.pid}, there, if it does not move")
        else:
            yield Finding("leases", "ok", what)


def plans(home: Home) -> Iterator[Finding]:
    """Nights that were cut off. Their finished shards are kept.

    See: the plan's folder and how many shards it has, where no refresh is at it; or how many plans can never be finished.

    Mend: ``tapstate refresh`` goes on with it; ``tapstate maintain --yes`` removes those that are of no use.
    """
    for folder, plan in pending(home).items():
        if not any(name.startswith("refresh-") for name in living(home)):
            yield Finding("plans", "warn", f"{folder}: a refresh of {len(plan.shards)} shards was cut off", "tapstate refresh")
    left = dead_plans(home)
    if left:
        yield Finding("plans", "warn", f"{len(left)} that can never be finished", "tapstate maintain --yes")


CHECKS: tuple[Callable[[Home], Iterator[Finding]], ...] = (
    packages,
    gpu,
    place,
    disk,
    records,
    erasures,
    clock,
    leases,
    plans,
    rounds.nights,
    rounds.checks,
    rounds.production,
    rounds.bundle,
    rounds.encoder,
    rounds.ingests,
    rounds.users,
)
