"""Moving an alias: a dialog that says what will happen, asks why, and moves it only if it still names what was seen."""

from collections.abc import Callable
from functools import partial

from nicegui import run, ui

from flows.ui.frame import Console, shown
from schemas.errors import InputError, TapstateError
from schemas.records import AliasRecord, VersionRecord
from store.home import Home
from store.versions import PRODUCTION, promote, rollback

#: Letters of a reason, at most.
REASON = 500


def move(console: Console, action: Callable[[Home, str], AliasRecord], reason: str) -> AliasRecord:
    """Do ``action`` with a home that may be written.

    Raises:
        ConfigError: this console only reads.
        InputError: no reason, or a longer one than a reason is.
        ConflictError: the alias was moved since the page was opened.
    """
    home, reason = console.writable(), reason.strip()
    if not reason or len(reason) > REASON:
        raise InputError(f"give a reason, of at most {REASON} letters")
    return action(home, reason)


def promote_button(console: Console, record: VersionRecord, names: dict[str, int | None]) -> None:
    """Lets an alias name ``record``; ``names`` says what each alias names on this page."""
    failed = [f"{c.name} is {shown(c.value)}, the line is {shown(c.limit)}" for c in record.checks if not c.passed]

    def open_dialog() -> None:
        with ui.dialog() as dialog, ui.card().classes("w-96"):
            ui.label(f"Promote version {record.number}").classes("text-lg")
            alias = ui.select(sorted({PRODUCTION, *names}), value=PRODUCTION, label="alias").classes("w-full").mark("alias")
            ui.label().bind_text_from(alias, "value", lambda name: f"{name}: {shown(names.get(name))} → {record.number}")
            for text in failed:
                ui.label(f"failed check: {text}").classes("text-red-600")

            def act(home: Home, reason: str) -> AliasRecord:
                return promote(home, record.number, alias=alias.value, expected=names.get(alias.value), reason=reason)

            _confirm(console, dialog, "Promote", act)
        dialog.open()

    _button(console, f"Promote version {record.number}", open_dialog, "promote")


def rollback_button(console: Console, alias: str, seen: int) -> None:
    """Lets an alias name the version it named before ``seen``."""

    def open_dialog() -> None:
        with ui.dialog() as dialog, ui.card().classes("w-96"):
            ui.label(f"Roll back {alias}").classes("text-lg")
            ui.label(f"From version {seen} to the one before. Nightly refreshes then leave it there until a version is promoted.")
            _confirm(console, dialog, "Roll back", lambda home, reason: rollback(home, alias=alias, expected=seen, reason=reason))
        dialog.open()

    _button(console, "Roll back", open_dialog, f"rollback-{alias}")


def _button(console: Console, text: str, click: Callable[[], None], mark: str) -> None:
    button = ui.button(text, on_click=click).props("outline dense no-caps").mark(mark)
    button.set_enabled(console.write)
    if not console.write:
        with button:
            ui.tooltip("read-only; start with: tapstate ui --write")


def _confirm(console: Console, dialog: ui.dialog, verb: str, act: Callable[[Home, str], AliasRecord]) -> None:
    reason = ui.input("reason").props(f"maxlength={REASON}").classes("w-full").mark("reason")
    said = ui.label().classes("text-red-600 break-words").mark("said")

    async def confirm() -> None:
        try:
            await run.io_bound(partial(move, console, act, reason.value or ""))
        except TapstateError as error:
            said.set_text(str(error))
            return
        dialog.close()
        ui.navigate.reload()

    with ui.row().classes("w-full justify-end"):
        ui.button("Cancel", on_click=dialog.close).props("flat no-caps").mark("cancel")
        ui.button(verb, on_click=confirm).props("no-caps").mark("confirm")
