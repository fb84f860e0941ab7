"""``tapstate erase``: users, or single events, out of the home for good."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands import open_home
from flows.console import Bars, Output, OutputOption, emit, note
from schemas.errors import ConfigError, InputError


def erase(
    users: Annotated[list[str] | None, typer.Argument(help="User ids, exact.", metavar="USER…")] = None,
    from_file: Annotated[str, typer.Option("--from-file", help="A file of more user ids, one a line.")] = "",
    event: Annotated[
        list[str] | None,
        typer.Option("--event", help="Id of a single event of the one USER named, repeatable: the event goes, the user stays."),
    ] = None,
    lift: Annotated[bool, typer.Option("--lift", help="Let them in again: later ingests take them. Brings nothing back.")] = False,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the record, so name nobody.")] = "asked for",
    yes: Annotated[bool, typer.Option("--yes", help="Act. Without it, only show what would go.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Remove users physically from every table, version, bundle, index and log, prove it, and keep them out of later ingests."""
    from flows import datasets, lineage
    from flows.prefect_home import place
    from store.pseudonyms import Pseudonyms, is_name, shown

    home = open_home()
    ids = list(dict.fromkeys([*(users or []), *_lines(from_file)]))
    events = [(ids[0], item) for item in event or []] if len(ids) == 1 else []
    if not ids or (event and not events):
        what = "name the one user whose event it is" if event else "name at least one user"
        raise ConfigError(what, mend="tapstate erase USER [--event EVENT_ID], or tapstate erase --from-file FILE")
    for name in filter(is_name, ids):
        note(f"{name} is taken as an id, not as a pseudonym; whose pseudonym it would be: tapstate show {name}")
    pseudonyms = Pseudonyms(home)
    from pipelines.erase import Erasure
    from pipelines.erase import lift as let_in

    people = [] if events else ids
    if lift:
        names = [shown("user", t) for t in pseudonyms.users(people)] + [shown("event", t) for t in pseudonyms.events(events)]
        if yes:
            let_in(home, people, events, reason)
        emit({"lifted": names, "done": yes}, output)
        if not yes:
            note("nothing was changed; --yes acts")
        return
    with Bars() as meter:
        erasure = Erasure(home, people, events, journals=(place(home),), meter=meter)
        if yes:
            with lineage.run("erase") as told:
                receipt = erasure.erase(reason)
                told.writes = datasets.erased(home, receipt)
    if not yes:
        found, left = erasure.survey(), erasure.cannot_undo()
        if output is Output.json:
            emit({"done": False, "users": len(people), "events": len(events), "found": _plain(found), "cannot_undo": left}, output)
        else:
            emit(_plain(found), output, title=f"{len(people):,} users, {len(events):,} single events: what the home holds of them")
            _told(left)
        note("nothing was changed; --yes acts")
        return
    done = receipt.model_dump(mode="json")
    if output is Output.json:
        emit({"done": True, **done}, output)
        return
    emit(_plain(receipt.removed), output, title=f"erased: {_some(receipt.users + receipt.events)}; receipt receipts/{receipt.number}.json")
    proof = receipt.proof
    searched = f"{proof.files:,} files, {proof.decoded:,} of them decoded, {proof.bytes:,} bytes"
    note(f"proof: {searched} searched for {proof.needles:,} values: 0 hits")
    if proof.mentions:
        note(f"{proof.mentions:,} texts of other users mention them; those are not theirs and stay")
    _told([*receipt.cannot_undo, *(f"model file {name} holds a text of theirs" for name in proof.models)])


def _told(left: list[str]) -> None:
    for line in left:
        note(f"cannot be undone: {line}")


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def _plain(found: object) -> list[dict[str, object]]:
    from schemas.records import Found

    assert isinstance(found, list | tuple)
    return [item.model_dump() for item in found if isinstance(item, Found)]


def _lines(path: str) -> list[str]:
    if not path:
        return []
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the file of ids: {error}", where=path, mend="one id a line, UTF-8") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
