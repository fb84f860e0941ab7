"""What the tables come to: tide against the best of the papers' arms and of those that any team has, cell by cell.

Cells of few users are left out, and those whose LLM no prefix moves: they tell nobody apart.
"""

from dataclasses import dataclass
from typing import Any

from benchmarks.tables import LOWER_IS_BETTER
from benchmarks.variants import TRAINED

PAPERS, ANYBODYS = ("tapper", "pplug"), ("none", "default", "recency", "bm25")
SHOWN = ("accuracy", "mae", "rougeL", "nll")
#: A lower bound above this counts as "no worse": absolute, or as a share of the rival's figure.
LINES, RELATIVE = {"accuracy": -0.01, "rougeL": -0.005}, -0.01
#: A cell of fewer users is only described; a gain in loss of a smaller share is none.
FEW, MOVED = 30, 0.02


@dataclass(frozen=True)
class Rivalry:
    """tide's gain over the best of some arms in one cell."""

    task: str
    data: str
    split: str
    metric: str
    tide: float
    rival: str
    figure: float
    gain: float
    low: float
    high: float
    users: int
    seeds: int

    @property
    def line(self) -> float:
        """What the interval's lower bound must be above."""
        return LINES.get(self.metric, RELATIVE * self.figure)

    @property
    def told(self) -> str:
        """The interval in words."""
        if self.low > 0:
            return "better"
        if self.low > self.line:
            return "no worse" if self.high >= 0 else "worse, within the line"
        return "worse" if self.high < 0 else "not clear"


def judged(row: dict[str, Any]) -> tuple[int, int, int]:
    """What two rows of a cell must share to stand side by side: seeds, users and examples."""
    return row["seeds"], row["users"], row["examples"]


def unmoved(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str], tuple[float, float]]:
    """Cells (task, data, split) whose LLM no trained prefix moves: its loss without one, and with the best."""
    loss = {(r["task"], r["data"], r["split"], r["arm"]): r["mean"] for r in rows if r["metric"] == "nll"}
    found = {}
    for cell in sorted({key[:3] for key in loss}):
        best = min((mean for (*where, arm), mean in loss.items() if tuple(where) == cell and arm in TRAINED), default=0.0)
        if best > (1 - MOVED) * loss.get((*cell, "none"), 0.0) > 0:
            found[cell] = (loss[*cell, "none"], best)
    return found


def rivalries(rows: list[dict[str, Any]], verdicts: list[dict[str, Any]], arms: tuple[str, ...]) -> list[Rivalry]:
    """One a cell where tide and all of ``arms`` judged the same examples; of states of the last night."""
    figures = {(r["task"], r["data"], r["split"], r["metric"], r["arm"]): r for r in rows}
    paired = {(v["task"], v["data"], v["split"], v["metric"], v["against"]): v for v in verdicts if v["arm"] == "tide"}
    still, found = unmoved(rows), []
    for *cell, arm in figures:
        others = [figures.get((*cell, other)) for other in arms]
        tide = figures[*cell, arm]
        if arm != "tide" or cell[3] not in SHOWN or any(other is None or judged(other) != judged(tide) for other in others):
            continue
        if tide["users"] < FEW or tuple(cell[:3]) in still:
            continue
        sign = 1 if cell[3] in LOWER_IS_BETTER else -1
        best = min((other for other in others if other), key=lambda other: sign * other["mean"])
        verdict = paired.get((*cell, best["arm"]))
        if verdict and verdict["seeds"] == tide["seeds"]:
            task, data, split, metric = cell
            gain, low, high = (verdict[name] for name in ("difference", "low", "high"))
            found.append(
                Rivalry(task, data, split, metric, tide["mean"], best["arm"], best["mean"], gain, low, high, tide["users"], tide["seeds"])
            )
    return sorted(found, key=lambda r: (r.task, r.data, r.split, r.metric))


def summary(rows: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> list[str]:
    """The section's lines; of tasks that have all the arms."""
    papers, anybodys = (rivalries(rows, verdicts, arms) for arms in (PAPERS, ANYBODYS))
    if not papers:
        return []
    return [
        "**tide against the better of tapper and pplug**: no worse where the interval's lower bound is above the line (one point of"
        " accuracy, 1 % of a loss or an error, half a point of ROUGE).",
        "",
        *_table(papers),
        "**tide against the best of none, default, recency and bm25**",
        "",
        *_table(anybodys),
        *_controls(rows, verdicts),
        "",
    ]


def _table(found: list[Rivalry]) -> list[str]:
    lines = ["| task | users | metric | tide | best rival | gain | 95 % interval | | seeds |", "|---|---|---|---|---|---|---|---|---|"]
    for r in found:
        where = f"| {r.task} ({r.data}) | {r.users} {r.split} | {r.metric} | {r.tide:.3f} | {r.rival} {r.figure:.3f} "
        lines.append(where + f"| {r.gain:+.4f} | {r.low:+.4f} to {r.high:+.4f} | {r.told} | {r.seeds} |")
    return [*lines, ""]


def _controls(rows: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> list[str]:
    """The controls, and what serving stores."""
    lines = []
    for arm, against, told in (
        ("tide-shuffled-users", "default", "Histories of strangers against no history (`tide-shuffled-users`, `default`)"),
        ("default", "none", "The neutral prefix against none (`default`, `none`)"),
    ):
        still = unmoved(rows)
        mine = [v for v in verdicts if (v["arm"], v["against"], v["metric"]) == (arm, against, "nll")]
        mine = [v for v in mine if (v["task"], v["data"], v["split"]) not in still]
        gains = [f"{v['task']} ({v['data']}) {v['split']} {v['difference']:+.4f} ({v['low']:+.4f} to {v['high']:+.4f})" for v in mine]
        if gains:
            lines.append(f"- {told}, gain in nll: {'; '.join(gains)}.")
    stored = {r["arm"]: r["stored_bytes_at_512_items"] for r in rows if r["arm"] in ("tide", "tapper") and r["stored_bytes_at_512_items"]}
    if len(stored) == 2:
        share = stored["tapper"] / stored["tide"]
        lines.append(f"- Bytes at 512 items: tide {stored['tide']:,.0f}, tapper {stored['tapper']:,.0f}, {share:.0f} times as many.")
    return lines
