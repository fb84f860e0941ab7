"""Plots of a report, as SVG that lies in the page: text stays text, and every colour is a variable of the page's style, so that one
drawing serves light, dark and print.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from schemas.report import Drift, Night, Report, Sample, Spread, StateMap

#: What is drawn in each colour's place; the page's style says what it is: ink, grid, bars, what failed, then classes of the map.
COLOURS = {name: f"#0102{number:02x}" for number, name in enumerate(("ink", "grid", "bar", "bad", *(f"class{n}" for n in range(6))), 1)}
RECENCY = ("within a day", "a week", "a month", "a quarter", "a year", "longer ago")
RECENT_DAYS = (1, 7, 30, 91, 365)
ACTIVITY = ("1000 events or more", "100 or more", "30 or more", "10 or more", "3 or more", "1 or 2")
ACTIVE_EVENTS = (1000, 100, 30, 10, 3)
#: Share of places at each end that do not stretch the map, where there are so many.
OUTLYING, MANY = 0.005, 200
_STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), COLOURS["ink"]),
    **{"svg.fonttype": "none", "svg.hashsalt": "tapstate", "font.family": "sans-serif", "font.size": 8, "axes.titlesize": 9},
    **{"axes.spines.top": False, "axes.spines.right": False, "grid.color": COLOURS["grid"], "axes.axisbelow": True},
    **{"axes.linewidth": 0.6, "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none"},
}


def drawings(report: Report) -> dict[str, str]:
    """Every plot of a report as SVG, by name; ``shift-<n>`` for each version that it is compared with."""
    found = {"nights": _nights(report.nights), "sample": _sample(report.sample)}
    if report.sample.users > 2:
        found["map"] = _map(report.sample.map)
    for drift in report.drift:
        if drift.shift:
            found[f"shift-{drift.base}"] = _shift(drift, drift.shift)
    return found


def _svg(height: float, columns: int, draw: Callable[[list[Axes]], None]) -> str:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.4, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(1, columns, squeeze=False)[0]
        draw(list(axes))
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    # Of the file's frame, only the drawing belongs into a page; names of namespaces are not needed there.
    svg = re.sub(r"<metadata>.*?</metadata>", "", out.getvalue()[out.getvalue().index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 aria-hidden="true">', svg, count=1)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg


def _bars(axes: Axes, spread: Spread, title: str, label: str) -> None:
    edges, counts = np.array(spread.histogram.edges), np.array(spread.histogram.counts)
    axes.stairs(counts, edges, fill=True, color=COLOURS["bar"])
    if edges[0] > 0 and edges[-1] > 50 * edges[0]:
        axes.set_xscale("log")
    axes.set_title(title, loc="left")
    axes.set_xlabel(label)
    axes.set_ylabel("users")
    _whole(axes)


def _whole(axes: Axes) -> None:
    axes.grid(axis="y", linewidth=0.5)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _shift(drift: Drift, shift: Spread) -> str:
    def draw(axes: list[Axes]) -> None:
        # From the first bar on, with room at its left.
        first = np.flatnonzero(shift.histogram.counts)
        _bars(axes[0], shift, f"how far users moved from version {drift.base}", "1 − cosine")
        axes[0].set_xlim(shift.histogram.edges[max(0, int(first[0]) - 2) if len(first) else 0], shift.histogram.edges[-1])

    return _svg(2.2, 1, draw)


def _sample(sample: Sample) -> str:
    def draw(axes: list[Axes]) -> None:
        _bars(axes[0], sample.norms, "norm of states", "root mean square")
        _bars(axes[1], sample.events, "events of a user", "events")
        _bars(axes[2], sample.days, "last event", "days before this version's moment")

    return _svg(2.2, 3, draw)


def _nights(nights: Sequence[Night]) -> str:
    figures = (("events_new", "new events"), ("users_changed", "users changed"), ("users", "users"), ("seconds", "seconds"))

    def draw(axes: list[Axes]) -> None:
        places = np.arange(len(nights))
        colours = [COLOURS["bad"] if night.failed else COLOURS["bar"] for night in nights]
        for place, (name, title) in zip(axes, figures, strict=True):
            values = np.array([getattr(night, name) for night in nights], np.float64)
            place.bar(places, values, color=colours, width=0.8)
            place.set_title(title, loc="left")
            place.set_xlim(-0.8, max(len(nights), 5) - 0.2)
            shown = np.unique(np.linspace(0, len(nights) - 1, min(4, len(nights))).astype(int))
            place.set_xticks(shown, [str(nights[n].version) for n in shown])
            place.set_xlabel("version")
            place.ticklabel_format(axis="y", useOffset=False, style="plain")
            _whole(place)
            if name == "seconds":
                place.yaxis.set_major_locator(MaxNLocator(nbins=5))
                place.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.3g}"))
            # A first load must not make all nights after it look alike.
            usual = 2 * float(np.median(values))
            if 0 < 5 * usual < values.max():
                place.set_ylim(0, 1.15 * usual)
                for high in np.flatnonzero(values > 1.15 * usual):
                    place.text(high + 0.5, 1.15 * usual, f"↑ {brief(values[high])}", va="top", fontsize=7)

    return _svg(2.0, len(figures), draw)


def brief(value: float) -> str:
    """A figure of three digits that fits above a bar: 0.62, 1,500, 20.2M."""
    if abs(value) < 10_000:
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return EngFormatter(sep="")(float(f"{value:.3g}"))


def _map(found: StateMap) -> str:
    x, y = np.array(found.x), np.array(found.y)
    recent = np.searchsorted(RECENT_DAYS, np.array(found.days), side="left")
    active = np.searchsorted(-np.array(ACTIVE_EVENTS), -np.array(found.events), side="left")

    def draw(axes: list[Axes]) -> None:
        for place, title, classes, names in zip(
            axes, ("by last event", "by number of events"), (recent, active), (RECENCY, ACTIVITY), strict=True
        ):
            _points(place, x, y, classes, names)
            place.set_title(title, loc="left")
            for axis, values in ((place.set_xlim, x), (place.set_ylim, y)):
                low, high = np.quantile(values, [OUTLYING, 1 - OUTLYING] if len(values) >= MANY else [0, 1])
                margin = 0.1 * (high - low) or 1.0
                axis(low - margin, high + margin)
            place.set_xlabel(f"first component, {found.explained[0]:.0%} of the variance")
            place.set_ylabel(f"second, {found.explained[1]:.0%}")
            handles, labels = place.get_legend_handles_labels()
            place.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, handletextpad=0.2, fontsize=7)

    return _svg(4.6, 2, draw)


def _points(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], classes: NDArray[np.int64], names: Sequence[str]) -> None:
    size = 3.0 if len(x) > 300 else 5.0
    # The rarest colours (the first classes) on top. Drawn as a line's markers, a point takes 60 bytes, not 150.
    for number in reversed(range(len(names))):
        mine = classes == number
        if mine.any():
            axes.plot(
                x[mine], y[mine], "o", ms=size, mew=0, color=COLOURS[f"class{number}"], label=f"{names[number]}: {mine.sum():,}", alpha=0.85
            )
