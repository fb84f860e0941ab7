"""Versions, newest first, and the names that move over them."""

from typing import Any

from nicegui import ui

from flows.ui.frame import Console, address, frame, grid, heading
from flows.ui.moves import rollback_button
from schemas.records import AliasRecord, VersionRecord
from store.home import Home
from store.pages import PAGE, newest_first
from store.versions import aliases, counts, retired, returns

#: Moves shown of each alias.
MOVES = 10


def register(console: Console) -> None:
    """The page at ``/``."""

    @ui.page("/")
    async def page(before: int | None = None) -> None:
        with frame(console, "Versions"):
            found = await console.load(_read, before)
            if found is None:
                return
            rows, more, moves, back = found
            heading("Aliases", "names that move over versions; serving follows production")
            for name, records in moves.items():
                _alias(console, name, records, back)
            if not moves:
                ui.label("No alias yet: the first version that passes its checks becomes production.").classes("italic opacity-70")
            heading("Versions", "newest first; retired ones are left out")
            grid(rows, "No version yet: tapstate refresh makes one.", links={"version": "_link"}, mark="versions")
            with ui.row():
                if before:
                    ui.link("newest", "/")
                if more:
                    ui.link("older", address("/", before=more)).mark("older")


def _alias(console: Console, name: str, records: list[AliasRecord], back: set[int]) -> None:
    now = records[0]
    with ui.card().classes("w-full gap-2"):
        with ui.row().classes("items-center gap-3"):
            ui.badge(name, color="primary")
            ui.link(f"version {now.version}", f"/version/{now.version}")
            ui.label(f"since {now.created_at:%Y-%m-%d %H:%M} UTC: {now.reason}").classes("opacity-80")
            if now.rollback:
                ui.badge("rolled back: nights leave it here until someone promotes", color="orange-9")
            if back:
                rollback_button(console, name, now.version)
        with ui.expansion("moves").props("dense"):
            grid([{"at": r.created_at, "from": r.expected, "to": r.version, "rollback": r.rollback, "by": r.created_by, "reason": r.reason}
                  for r in records], "")  # fmt: skip


def _read(home: Home, before: int | None) -> tuple[list[dict[str, Any]], int | None, dict[str, list[AliasRecord]], set[int]]:
    named, gone = aliases(home), retired(home)
    records: list[VersionRecord] = []
    for record in newest_first(home.versions, before):
        if record.number not in gone:
            records.append(record)
        if len(records) > PAGE:
            break
    rows = [_row(home, record, named.get(record.number, [])) for record in records[:PAGE]]
    moves = {}
    for name in sorted({name for names in named.values() for name in names}, key=lambda n: (n != "production", n)):
        moves[name] = [record for record, _ in zip(newest_first(home.aliases(name)), range(MOVES), strict=False)]
    return rows, records[PAGE - 1].number if len(records) > PAGE else None, moves, returns(home)


def _row(home: Home, record: VersionRecord, names: list[str]) -> dict[str, Any]:
    users, events = counts(home, record)
    failed = [check.name for check in record.checks if not check.passed]
    return {
        "version": record.number,
        "_link": f"/version/{record.number}",
        "aliases": ", ".join(sorted(names)),
        "created (UTC)": record.created_at,
        "line": record.aggregator[:8],
        "personalizer": record.personalizer,
        "users": users,
        "changed": record.users_changed,
        "events": events,
        "new": record.events_new,
        "seconds": round(record.seconds, 1),
        "checks": f"failed: {', '.join(failed)}" if failed else f"{len(record.checks)} passed",
    }
