"""One user: their history across versions, the events behind each slot of their state, and who is like them."""

from contextlib import nullcontext
from typing import Any

from nicegui import ui

from flows.ui.frame import BLUE, ORANGE, Console, address, bars, frame, grid, heading
from flows.ui.nearest import nearest_panel
from flows.ui.slots import slots_panel
from schemas.errors import NotFoundError
from schemas.records import VersionRecord
from store.bearers import bearer
from store.history import Entry, user_history
from store.home import Home
from store.pseudonyms import Pseudonyms, is_name
from store.versions import resolve

#: Versions of a user's history that are shown, and events.
VERSIONS = 100


def register(console: Console) -> None:
    """The page at ``/user``."""

    @ui.page("/user")
    async def page(id: str = "", version: str = "") -> None:
        with frame(console, "Users"):
            with ui.row().classes("items-end gap-4 mt-2"):
                wanted = ui.input("user id, exact, or pseudonym", value=id).classes("w-80").mark("user")
                which = ui.input("version, alias or moment", value=version, placeholder="production").classes("w-52").mark("at")

                def go() -> None:
                    ui.navigate.to(address("/user", id=wanted.value, version=which.value or None))

                wanted.on("keydown.enter", go)
                which.on("keydown.enter", go)
                ui.button("Show", on_click=go).props("no-caps").mark("show")
            if not id:
                ui.label("Give an id: it is looked up in every version, and nowhere else.").classes("opacity-70")
                return
            # Whose a pseudonym is takes a look at every id.
            async with console.whole if is_name(id) else nullcontext():
                found = await console.load(_read, id, version or None)
            if found is None:
                return
            record, entries, user, name = found
            heading(user, f"{name} in logs, reports and receipts")
            _history(entries)
            await slots_panel(console, record, user)
            nearest_panel(console, record, user)


def _read(home: Home, user: str, reference: str | None) -> tuple[VersionRecord, list[Entry], str, str]:
    record = resolve(home, reference)
    user = bearer(home, user, record.number)
    entries = user_history(home, user)
    if not any(entry.present for entry in entries):
        raise NotFoundError(f"no version holds a user {user!r}", where=home.uri, mend="ids are exact, case included")
    return record, entries, user, Pseudonyms(home).name(user)


def _history(entries: list[Entry]) -> None:
    changed = [entry for entry in entries if entry.changed]
    some = changed[-VERSIONS:]
    about = f"the newest {len(some)} of {len(changed)} versions that changed the state; shift = 1 − cosine from the line's version before"
    heading("History", about)
    events, shifts = [entry.events for entry in some], [entry.shift for entry in some]
    bars([str(entry.version) for entry in some], {"events behind the state": (events, ORANGE), "shift": (shifts, BLUE)}, 180)
    grid([_row(entry) for entry in reversed(some)], "No version changed it.", links={"version": "_link"}, mark="history")


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "version": entry.version,
        "_link": f"/version/{entry.version}",
        "created (UTC)": entry.created_at,
        "line": entry.aggregator[:8],
        "events": entry.events,
        "first event (UTC)": entry.first_ts,
        "last event (UTC)": entry.last_ts,
        "shift": entry.shift,
        "norm": entry.norm,
    }
