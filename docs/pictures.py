"""The pictures of concepts.md, drawn by the code they are about: ``python -m docs.pictures`` writes them to docs/concepts/."""

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from encoders import slots
from encoders.examples import DAY, Examples
from encoders.tide import Tide
from schemas.config import TideConfig

PLACE = Path(__file__).parent / "concepts"
#: What is drawn in each colour's place, and what it is on light and on dark paper.
INK, PAPER, FAINT, ONE, OTHER = (f"#0102{number:02x}" for number in range(5))
COLOURS = {
    INK: ("ink", "#1f2328", "#e6edf3"),
    PAPER: ("paper", "#ffffff", "#0d1117"),
    FAINT: ("faint", "#c3c9d0", "#444c56"),
    ONE: ("one", "#1f6fb4", "#6cb6ff"),
    OTHER: ("other", "#b3560b", "#f0a35e"),
}
_STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), INK),
    **{"svg.fonttype": "none", "svg.hashsalt": "tapstate", "font.family": "sans-serif", "font.size": 9, "axes.titlesize": 10},
    **{"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "axes.titlelocation": "left"},
    **{"figure.facecolor": PAPER, "axes.facecolor": "none", "savefig.facecolor": PAPER},
}


def pictures() -> dict[str, str]:
    """Every picture as SVG, by file name."""
    with mpl.rc_context(_STYLE):
        return {"half-lives.svg": _half_lives(), "merge.svg": _merge(), "nightly-cut.svg": _nightly_cut()}


def _new(height: float) -> Figure:
    figure = Figure(figsize=(7.6, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def _svg(figure: Figure) -> str:
    """The figure, its colours by the reader's scheme; without a date, the same figure is the same file."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    schemes = ["; ".join(f"--{name}: {tones[scheme]}" for name, *tones in COLOURS.values()) for scheme in (0, 1)]
    style = f":root {{{schemes[0]}}} @media (prefers-color-scheme: dark) {{:root {{{schemes[1]}}}}}"
    svg = svg.replace("<defs>", f'<defs>\n  <style type="text/css">{style}</style>', 1)
    for colour, (name, light, _) in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name}, {light})")
    return svg


def _half_lives() -> str:
    decay = Tide(TideConfig(), text_dim=8).decay().detach()
    days = np.geomspace(1 / 24, 5 * 365, 200)
    left = np.exp(-decay.numpy() * days[:, None] * DAY)
    figure = _new(2.9)
    axes = figure.subplots()
    for slot, rate in enumerate(decay.tolist()):
        axes.plot(days, left[:, slot], color=ONE if rate else OTHER)
        if rate:
            half = np.log(2) / rate / DAY
            name = f"{half * 24:.0f} h" if half < 2 else f"{half:.0f} d" if half < 730 else f"{half / 365:.0f} y"
            axes.plot(half, 0.5, "o", ms=4, color=ONE)
            axes.annotate(name, (half, 0.5), (5, 3), textcoords="offset points")
    axes.text(days[0] * 1.1, 1.03, "the last slot never decays", color=OTHER)
    axes.set_xscale("log")
    axes.set_xticks([1 / 24, 1, 7, 30, 365, 1825], ["1 hour", "1 day", "1 week", "1 month", "1 year", "5 years"])
    axes.minorticks_off()
    axes.set(ylim=(0, 1.12), xlabel="age of an event", ylabel="what is left of its weight")
    axes.set_title(f"{len(decay)} slots as training starts: each forgets by half in its own time")
    return _svg(figure)


def _merge() -> str:
    """Two weeks of one user, cut at random: not even the order of time is kept."""
    draw, events = torch.Generator().manual_seed(4), 24
    decay = Tide(TideConfig(), text_dim=8).decay().detach()
    ts = torch.randint(0, 14 * DAY, (events,), generator=draw).sort().values
    score, value = (torch.randn(events, len(decay), *more, generator=draw, dtype=torch.float64) for more in ((), (1,)))
    late = torch.rand(events, generator=draw) < 0.4

    def state(rows: torch.Tensor) -> slots.Slots:
        return slots.gather(torch.zeros(int(rows.sum()), dtype=torch.int64), 1, score[rows], value[rows], ts[rows], decay)

    first, second, whole = state(~late), state(late), state(torch.ones_like(late))
    merged = slots.merge(first, second, decay)
    torch.testing.assert_close(merged.total, whole.total, rtol=0, atol=1e-12)
    figure = _new(3.6)
    above, below = figure.subplots(2, 1, height_ratios=[1, 3])
    for rows, colour, marker, y in ((~late, ONE, "o", 1), (late, OTHER, "^", 0)):
        above.plot(ts[rows].numpy() / DAY, np.full(int(rows.sum()), y), marker, ms=5, color=colour)
    above.set(ylim=(-0.6, 1.6), yticks=[1, 0], yticklabels=["came first, A", "came late, B"], xlabel="day")
    above.set_title("one user's events, and their slots from A, from B, and from both")
    numbers = np.arange(len(decay))
    for part, colour, marker, name in ((first, ONE, "o", "A alone"), (second, OTHER, "^", "B alone")):
        below.plot(numbers, part.total[0, :, 0].numpy(), marker, ms=5, color=colour, label=name)
    both = np.stack([first.total[0, :, 0].numpy(), second.total[0, :, 0].numpy()])
    below.vlines(numbers, both.min(0), both.max(0), color=FAINT, zorder=0)
    below.plot(numbers, whole.total[0, :, 0].numpy(), "s", ms=10, mfc="none", mec=INK, label="of all events at once")
    below.plot(numbers, merged.total[0, :, 0].numpy(), "x", ms=6, color=INK, label="merge(A, B)")
    below.margins(y=0.15)
    below.set(xticks=numbers, xlabel="slot (shortest half-life first; the last never decays)", ylabel="one number of S")
    below.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.28), handletextpad=0.3)
    return _svg(figure)


def _nightly_cut() -> str:
    """A user's events around a query; one happened on the second day and was known on the third."""
    ts = np.array([0.3, 0.8, 1.2, 1.6, 1.9, 2.4, 2.8, 3.2, 3.45]) * DAY
    known = ts.copy()
    known[3] = 2.6 * DAY
    order = np.argsort(known)
    ts, known = ts[order].astype(np.int64), known[order].astype(np.int64)
    count, query = len(ts), int(3.6 * DAY)
    one, each = np.zeros(1, np.int64), np.zeros(count, np.int64)
    vectors, value = np.zeros((1, 8), np.float16), np.full(count, np.nan, np.float32)
    examples = Examples(
        vectors, known, ts, np.arange(count), each, each - 1, value, (), each - 1,
        first=one, last=one + count, user=one, now=one + query, query=one - 1, answer=one - 1, task=one - 1, prompts=["?"], targets=["!"],
    )  # fmt: skip
    figure = _new(2.9)
    axes = figure.subplots()
    for lag in range(3):
        there = np.isin(np.arange(count), examples.histories(one, lag_nights=lag, size=count).key)
        cut = query // DAY - lag
        axes.hlines(-lag, 0, 4, color=FAINT, lw=0.8, zorder=0)
        axes.vlines(cut, -lag - 0.35, -lag + 0.35, color=INK)
        axes.text(cut + 0.03, -lag + 0.27, "cut", va="center", fontsize=8)
        for happened, told in zip(ts / DAY, known / DAY, strict=True):
            if told > happened:
                bent = {"arrowstyle": "->", "color": OTHER, "connectionstyle": "arc3,rad=0.2", "shrinkA": 5}
                axes.annotate("", (told, -lag), (happened, -lag), arrowprops=bent)
        for rows, fill in ((there, ONE), (~there, PAPER)):
            axes.plot(ts[rows] / DAY, np.full(rows.sum(), -lag), "o", ms=7, mfc=fill, mec=ONE)
    for fill, name in ((ONE, "in the history"), (PAPER, "not in it")):
        axes.plot([], [], "o", ms=7, mfc=fill, mec=ONE, label=name)
    axes.plot([], [], color=OTHER, label="from when it happened to when it was known")
    axes.axvline(query / DAY, color=OTHER, ls=":")
    axes.text(query / DAY + 0.04, 0.62, "query", color=OTHER)
    axes.set(yticks=[0, -1, -2], yticklabels=["last night's", "one night more", "two nights more"], ylim=(-2.5, 0.9), xlim=(0, 4))
    axes.set_xticks(range(5), [f"day {day}, 00:00" for day in range(1, 6)])
    axes.set_title("what the nightly store held when the query came, by extra lag")
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.12), handletextpad=0.4)
    return _svg(figure)


if __name__ == "__main__":
    PLACE.mkdir(exist_ok=True)
    for name, svg in pictures().items():
        (PLACE / name).write_text(svg)
