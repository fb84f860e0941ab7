"""Erasures and their receipts: what was removed, how that was proven, and what cannot be undone. Pseudonyms, no ids."""

from nicegui import ui

from flows.ui.frame import Console, address, frame, grid, heading
from schemas.records import ErasureRecord, ReceiptRecord
from store.home import Home
from store.pages import newest_first

#: Erasures of one page, and pseudonyms shown of one.
PAGE, NAMES = 20, 20


def register(console: Console) -> None:
    """The page at ``/erasures``."""

    @ui.page("/erasures")
    async def page(before: int | None = None) -> None:
        with frame(console, "Erasures"):
            found = await console.load(_read, before)
            if found is None:
                return
            heading("Erasures", "newest first; the page Users tells the pseudonym of an id")
            if not found:
                ui.label("Nobody was erased.").classes("italic opacity-70").mark("none")
            for erasure, receipt in found:
                _card(erasure, receipt)
            if len(found) == PAGE and found[-1][0].number > 1:
                ui.link("older", address("/erasures", before=found[-1][0].number))


def _read(home: Home, before: int | None) -> list[tuple[ErasureRecord, ReceiptRecord | None]]:
    records = zip(newest_first(home.erasures, before), range(PAGE), strict=False)
    return [(record, home.receipts.get(record.number)) for record, _ in records]


def _card(erasure: ErasureRecord, receipt: ReceiptRecord | None) -> None:
    lifted = erasure.kind == "lift"
    with ui.card().classes("w-full").mark(f"erasure-{erasure.number}"):
        with ui.row().classes("items-center gap-3"):
            ui.label(f"{'Lifting' if lifted else 'Erasure'} {erasure.number}").classes("text-lg")
            ui.label(f"{erasure.created_at:%Y-%m-%d %H:%M} UTC by {erasure.created_by}: {erasure.reason}").classes("opacity-80")
            if lifted:
                ui.badge("let in again", color="grey-8")
            elif receipt is None:
                ui.badge("no receipt: it was cut off, or is under way", color="red-8")
            else:
                ui.badge("proven" if not receipt.proof.hits else "traces found", color="red-8" if receipt.proof.hits else "green-8")
        if receipt is None:
            return
        names = [*receipt.users, *receipt.events]
        ui.label(f"of {', '.join(names[:NAMES])}{f' and {len(names) - NAMES:,} more' if len(names) > NAMES else ''}").classes("break-all")
        grid([{"where": f.where, "rows": f.rows, "what was done": f.action} for f in receipt.removed], "nothing was there")
        proof = receipt.proof
        ui.label(
            f"Searched {proof.files:,} files ({proof.decoded:,} decoded too, {proof.bytes / 1e6:,.1f} MB) for {proof.needles:,} ids, keys, "
            f"texts and vectors: {len(proof.hits):,} found. Mentions in texts of others: {proof.mentions:,}. {receipt.seconds:,.1f} s."
        ).classes("text-sm")
        for text in (*proof.hits, *(f"holds a text of theirs: {model}" for model in proof.models)):
            ui.label(text).classes("text-sm text-red-600 break-all")
        for text in receipt.cannot_undo:
            ui.label(f"cannot be undone: {text}").classes("text-sm")
