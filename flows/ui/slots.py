"""The attention made visible: which events carry each slot of a user's state, and which the window holds."""

from typing import TYPE_CHECKING, Any

import numpy as np
from nicegui import ui

from flows.ui.frame import GREY, Console, chart, grid, heading
from schemas.records import VersionRecord
from store.home import Home

if TYPE_CHECKING:
    from pipelines.weights import Weights

#: Spans of time of the map, events of the table, and letters of a text.
SPANS, EVENTS, LETTERS = 48, 25, 200
#: Colours of the map. Steps, not a ramp: beside a slot that rests on one day, one that rests on years would be blank.
PIECES = [
    {"min": 30, "label": "30 % and more", "color": "#0b2545"},
    {"min": 10, "max": 30, "label": "10 – 30 %", "color": "#2f5d8a"},
    {"min": 3, "max": 10, "label": "3 – 10 %", "color": "#5b93c7"},
    {"min": 1, "max": 3, "label": "1 – 3 %", "color": "#9cc3e4"},
    {"min": 0.1, "max": 1, "label": "0.1 – 1 %", "color": "#d3e4f2"},
    {"max": 0.1, "label": "less", "color": "#f1f3f5"},
]
UNITS = (("years", 31_557_600.0), ("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0))


def _read(home: Home, record: VersionRecord, user: str) -> "Weights":
    # torch takes seconds to import, and no other page needs it.
    from pipelines.weights import event_weights

    return event_weights(home, record, user)


async def slots_panel(console: Console, record: VersionRecord, user: str) -> None:
    """Map and table of the weights of a user's events at a version."""
    heading(
        f"Events behind the state at version {record.number}",
        "a slot averages all events, by content and by age: a weight falls to half in the slot's half-life. The window keeps the latest.",
    )
    found = await console.load(_read, record, user)
    if found is None:
        return
    names = [f"slot {k + 1} · {half_life(seconds)}" for k, seconds in enumerate(found.half_lives.tolist())]
    _map(found, names)
    ui.label(
        f"Events: {len(found.events):,}; in the window: {int(found.window.sum()):,}. "
        f"Slots computed again from them differ from the stored ones by {found.gap:.1e} of their size."
    ).classes("text-sm opacity-70").mark("gap")
    effective = found.effective()
    options: dict[int, str] = {k: f"{name}, rests on {effective[k]:,.1f} events" for k, name in enumerate(names)}
    # A slot that rests on one event has one row to show.
    most = max(options, key=lambda k: effective[k], default=-1)
    select = ui.select({-1: "newest events", **options}, value=most, label="events by weight in").classes("w-96").mark("slot")

    @ui.refreshable
    def table() -> None:
        grid(rows(found, select.value), "No events.", mark="events")

    table()
    select.on_value_change(table.refresh)


def rows(found: "Weights", slot: int) -> list[dict[str, Any]]:
    """The heaviest events of a slot, or with ``-1`` the newest ones."""
    order = np.argsort(-found.weight[:, slot] if slot >= 0 else -np.arange(len(found.events)), kind="stable")[:EVENTS]
    strongest = found.weight.argmax(1)
    return [
        {
            "weight": f"{100 * found.weight[i, slot]:.2f} %" if slot >= 0 else "–",
            "at (UTC)": event["ts"],
            "text": (event["text"] or "")[:LETTERS],
            "target": event["target"],
            "value": event["value"],
            "window": bool(found.window[i]),
            "weighs most in": f"slot {int(strongest[i]) + 1}, {100 * found.weight[i].max():.2f} %",
        }
        for i, event in zip(order.tolist(), found.events[order].to_dicts(), strict=True)
    ]


def half_life(seconds: float) -> str:
    """A span of time in the unit that suits it."""
    if not np.isfinite(seconds):
        return "never decays"
    name, unit = next(((name, unit) for name, unit in UNITS if seconds >= unit), ("seconds", 1.0))
    return f"{seconds / unit:.3g} {name}"


def _map(found: "Weights", names: list[str]) -> None:
    """Share of each slot's weight by span of time, oldest left; and the spans whose events the window holds."""
    count = len(found.events)
    if not count:
        return
    if count <= SPANS:
        span, labels = np.arange(count), [f"{ts:%Y-%m-%d}" for ts in found.events["ts"]]
    else:
        # Spans of as many events each: an even clock would leave most of them empty.
        span = np.arange(count) * SPANS // count
        starts = np.searchsorted(span, np.arange(SPANS))
        labels = [f"{ts:%Y-%m-%d}" for ts in found.events["ts"][starts]]
    ui.label("Share of a slot's weight by time of the events; first row: the window's events.").classes("text-sm opacity-70")
    cells = np.zeros((len(labels), len(names) + 1))
    for k in range(len(names)):
        cells[:, k + 1] = np.bincount(span, found.weight[:, k], len(labels))
    cells[:, 0] = np.bincount(span, found.window / max(1, found.window.sum()), len(labels))
    data = [[x, y, round(100 * float(cells[x, y]), 3)] for x in range(len(labels)) for y in range(len(names) + 1)]
    chart(
        {
            "tooltip": {"position": "top"},
            "grid": {"left": 160, "right": 20, "top": 10, "bottom": 110},
            "xAxis": {"type": "category", "data": labels, "axisLabel": {"rotate": 40, "fontSize": 11}},
            "yAxis": {"type": "category", "data": ["window", *names], "inverse": True, "axisLabel": {"fontSize": 12}},
            "visualMap": {
                "type": "piecewise",
                "pieces": PIECES,
                "orient": "horizontal",
                "left": "center",
                "bottom": 0,
                "itemWidth": 16,
                "textStyle": {"color": GREY},
            },
            "series": [{"type": "heatmap", "data": data, "progressive": 0, "itemStyle": {"borderWidth": 1, "borderColor": "#ffffff"}}],
        },
        120 + 28 * (len(names) + 1),
    )
