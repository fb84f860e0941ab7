"""Who is like a user: asked for by a button, since every state is looked at."""

from typing import Any

from nicegui import ui

from flows.ui.frame import Console, address, grid, heading
from schemas.records import VersionRecord
from store.home import Home
from store.snapshot import Snapshot

#: How many.
TOP = 10


def nearest_panel(console: Console, record: VersionRecord, user: str) -> None:
    """The nearest users at a version, once they are asked for."""
    heading(
        "Nearest users", f"by the cosine of state vectors at version {record.number}; {record.users:,} states are read for it, in steps"
    )
    place = ui.column().classes("w-full mb-8")

    async def find() -> None:
        place.clear()
        with place:
            async with console.whole:
                found = await console.load(_read, record, user)
            if found is not None:
                grid(found, "There is nobody else.", links={"user": "_link"}, mark="nearest")

    with place:
        ui.button("Find them", on_click=find).props("outline no-caps").mark("find")


def _read(home: Home, record: VersionRecord, user: str) -> list[dict[str, Any]]:
    found = Snapshot(home, record).similar(user, top=TOP)
    return [
        {"user": row["user_id"], "_link": address("/user", id=row["user_id"], version=record.number), "cosine": row["cosine"],
         "events": row["event_count"]}
        for row in found.to_dicts()
    ]  # fmt: skip
