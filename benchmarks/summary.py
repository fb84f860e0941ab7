"""What the tables come to: tide against the best of the papers' arms and of those that any team has, cell by cell.

Cells of few users are left out, and those whose LLM no prefix moves: they tell nobody apart.
"""

from dataclasses import dataclass
from typing import Any

from benchmarks.tables import LOWER_IS_BETTER
from benchmarks.variants import TRAINED

#: Rivals; the papers' banks hold 512 items, or as few as training shows, and tapper has its users' rows or not, whichever is better.
PAPERS, SIMPLER = ("tapper", "pplug"), ("tapper-64-items", "pplug-64-items", "tapper-no-user-row")
ANYBODYS = ("none", "default", "recency", "bm25")
GUESSES, WEIGHTED = ("own-majority", "last-label"), ("llm-times-prior",)
SHOWN = ("accuracy", "f1", "mae", "rougeL", "nll")
#: A lower bound above this counts as "no worse": absolute, or as a share of the rival's figure.
LINES, RELATIVE = {"accuracy": -0.01, "f1": -0.01, "rougeL": -0.005}, -0.01
BYTES = (("at 512 items", "stored_bytes_at_512_items"), ("the mean user judged", "stored_bytes_per_user"))
#: A cell of fewer users is only described; a gain in loss of a smaller share is none, as a loss of it counts as no worse.
FEW, MOVED = 30, 0.01


@dataclass(frozen=True)
class Rivalry:
    """tide and the best of some arms in one cell: a row of ``quality.json`` each, and tide's verdict against it."""

    tide: dict[str, Any]
    rival: dict[str, Any]
    verdict: dict[str, Any]

    @property
    def cell(self) -> tuple[str, str, str]:
        """Task, data and split."""
        return self.tide["task"], self.tide["data"], self.tide["split"]

    @property
    def line(self) -> float:
        """What the interval's lower bound must be above."""
        return LINES.get(self.tide["metric"], RELATIVE * self.rival["mean"])

    @property
    def told(self) -> str:
        """The interval in words."""
        low, high = self.verdict["low"], self.verdict["high"]
        if low > 0:
            return "better"
        if low > self.line:
            return "no worse" if high >= 0 else "worse, within the line"
        return "worse" if high < 0 else "not clear"


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


def rivalries(
    rows: list[dict[str, Any]], verdicts: list[dict[str, Any]], arms: tuple[str, ...], more: tuple[str, ...] = ()
) -> list[Rivalry]:
    """One a cell where tide and all of ``arms`` judged the same examples, and those of ``more`` that did; of states of the last night."""
    figures = {(r["task"], r["data"], r["split"], r["metric"], r["arm"]): r for r in rows}
    paired = {(v["task"], v["data"], v["split"], v["metric"], v["against"]): v for v in verdicts if v["arm"] == "tide"}
    still, found = unmoved(rows), []
    for (*cell, arm), tide in sorted(figures.items()):
        if arm != "tide" or cell[3] not in SHOWN or tide["users"] < FEW or tuple(cell[:3]) in still:
            continue
        others = {name: figures[*cell, name] for name in (*arms, *more) if (*cell, name) in figures}
        others = {name: other for name, other in others.items() if judged(other) == judged(tide)}
        if not others.keys() >= set(arms):
            continue
        best = (min if cell[3] in LOWER_IS_BETTER else max)(others.values(), key=lambda other: other["mean"])
        verdict = paired.get((*cell, best["arm"]))
        if verdict and verdict["seeds"] == tide["seeds"]:
            found.append(Rivalry(tide, best, verdict))
    return found


def summary(rows: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> list[str]:
    """The section's lines; of tasks that have all the arms."""
    papers = rivalries(rows, verdicts, PAPERS, SIMPLER)
    if not papers:
        return []
    few = sorted(
        {f"{r['task']} ({r['data']}) {r['split']}" for r in rows if r["arm"] == "tide" and r["metric"] == "nll" and r["users"] < FEW}
    )
    left_out = [f"Fewer than {FEW} users, so left out here and found under *Figures* and *Verdicts*: {', '.join(few)}.", ""]
    return [
        "**tide against the best of tapper and pplug**, with banks of 512 items or of the 64 that training shows, tapper also without its"
        " users' rows: no worse where the interval's lower bound is above the line (one point of accuracy or F1, 1 % of a loss or an error,"
        " half a point of ROUGE)."
        " Intervals are over users, with the trainings as they came out; the gain by seed says how those differ.",
        "",
        *(left_out if few else []),
        *_table(papers),
        "**tide against the best of none, default, recency and bm25**",
        "",
        *_table(rivalries(rows, verdicts, ANYBODYS)),
        "**tide against guesses from the user's own labels**, the most frequent or the last, or the LLM's own weighted by their frequency",
        "",
        *_table(rivalries(rows, verdicts, GUESSES, WEIGHTED)),
        *_controls(rows, verdicts),
        "",
    ]


def _table(found: list[Rivalry]) -> list[str]:
    lines = ["| task | users | metric | tide | best rival | gain | 95 % interval | | by seed |", "|---|---|---|---|---|---|---|---|---|"]
    for r in found:
        task, data, split = r.cell
        gain = f"{r.verdict['difference']:+.4f} | {r.verdict['low']:+.4f} to {r.verdict['high']:+.4f}"
        told = [f"{task} ({data})", f"{r.tide['users']} {split}", r.tide["metric"], f"{r.tide['mean']:.3f}"]
        told += [f"{r.rival['arm']} {r.rival['mean']:.3f}", gain, r.told, " ".join(f"{x:+.3f}" for x in r.verdict["by_seed"])]
        lines.append(f"| {' | '.join(told)} |")
    return [*lines, ""]


def _controls(rows: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> list[str]:
    """The controls, and what serving stores."""
    lines, still = [], unmoved(rows)
    for arm, against, told in (
        ("tide-shuffled-users", "default", "Histories of strangers against no history (`tide-shuffled-users`, `default`)"),
        ("tide", "tide-swapped-users", "The right user's state against a stranger's (`tide`, `tide-swapped-users`)"),
        ("default", "none", "The neutral prefix against none (`default`, `none`)"),
        ("tide", "tide-window", "With slots against without (`tide`, `tide-window`)"),
    ):
        mine = [v for v in verdicts if (v["arm"], v["against"]) == (arm, against) and v["metric"] in ("nll", "mae")]
        mine = [v for v in mine if v["users"] >= FEW and (v["task"], v["data"], v["split"]) not in still]
        gains = [
            f"{v['task']} ({v['data']}) {v['split']} {v['metric']} {v['difference']:+.4f} ({v['low']:+.4f} to {v['high']:+.4f}"
            f"{', one seed' if v['seeds'] == 1 else ''})"
            for v in mine
        ]
        if gains:
            lines.append(f"- {told}, gain: {'; '.join(gains)}.")
    stored = {(r["task"], r["arm"]): r for r in rows if r["arm"] in ("tide", "tapper") and r["stored_bytes_at_512_items"]}
    for task in sorted({task for task, _ in stored}):
        if (task, "tide") in stored and (task, "tapper") in stored:
            tide, tapper = stored[task, "tide"], stored[task, "tapper"]
            sizes = [f"{name} {tide[key]:,.0f} and {tapper[key]:,.0f}, {tapper[key] / tide[key]:.0f} times" for name, key in BYTES]
            lines.append(f"- Bytes a user of {task}, tide and tapper: {'; '.join(sizes)}.")
    return lines
