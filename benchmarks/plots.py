"""Plots of the quality page: loss against bytes per user, the length of the history and the age of the state."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from benchmarks.summary import PAPERS, SIMPLER, judged, rivalries
from benchmarks.tables import AGED, load

mpl.use("Agg")
from matplotlib import pyplot as plt

#: The arms of the plots by history.
SHOWN = ("default", "tide", "tapper", "pplug")
GAINS = "gains.svg"
#: Whom tide is set against in the plot of gains.
RIVALS = (*PAPERS, *SIMPLER, "bm25", "recency", "default", "none")


def ages(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, dict[int, float]]]:
    """Loss by nights that the state is older than the last one, by arm, for (task, data, split).

    Ages judged on other examples than the last night are left out, and arms of one age.
    """
    found: dict[tuple[str, str, str], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    fresh = {(r["task"], r["data"], r["split"], r["arm"]): judged(r) for r in rows if r["metric"] == "nll"}
    for r in rows:
        split, _, nights = r["split"].partition(AGED)
        if r["metric"] == "nll" and nights != "live" and judged(r) == fresh.get((r["task"], r["data"], split, r["arm"])):
            found[r["task"], r["data"], split][r["arm"]][int(nights or 0)] = r["mean"]
    some = {key: {arm: by for arm, by in arms.items() if len(by) > 1} for key, arms in sorted(found.items())}
    return {key: arms for key, arms in some.items() if arms}


def plots(cache: Path, rows: list[dict[str, Any]], place: Path) -> list[str]:
    """Quality against bytes per user and the length of the history; names of all plots of ``rows``; such plots of other cells go.

    Those by history need outcomes of every arm they show: where the cache lacks one, the plot that was made before stays.
    """
    kept = {GAINS, *(f"{'-'.join(cell)}-age.svg" for cell in ages(rows))}
    kept |= {f"{r['task']}-{r['data']}-{r['split']}-{kind}.svg" for r in rows for kind in ("bytes", "history")}
    for path in place.glob("*.svg"):
        if path.name not in kept and path.stem.endswith(("-age", "-bytes", "-history")):
            path.unlink()
    for task, data, split in sorted({(r["task"], r["data"], r["split"]) for r in rows if AGED not in r["split"]}):
        mine = [r for r in rows if (r["task"], r["data"], r["split"], r["metric"]) == (task, data, split, "nll")]
        sized = [r for r in mine if r["stored_bytes_at_512_items"] is not None and judged(r) == max(map(judged, mine))]
        if sized:
            figure, axes = plt.subplots(figsize=(5, 3.4))
            for r in sized:
                low, high = r["mean"] - r["low"], r["high"] - r["mean"]
                bytes_ = 1 if r["arm"] == "default" else r["stored_bytes_at_512_items"]
                axes.errorbar(bytes_, r["mean"], yerr=[[max(0, low)], [max(0, high)]], fmt="o")
                axes.annotate(r["arm"], (bytes_, r["mean"]), fontsize=7, xytext=(4, 4), textcoords="offset points")
            axes.set(
                xscale="log", xlabel="bytes per user in the bundle, at 512 items", ylabel="nll", title=f"{task} ({data}), {split} users"
            )
            _save(figure, place / f"{task}-{data}-{split}-bytes.svg")
    runs = load(cache / "outcomes")
    for task, data, split in sorted({key[:3] for key in runs if AGED not in key[2]}):
        here = [r for r in rows if (r["task"], r["data"], r["split"], r["metric"]) == (task, data, split, "nll") and r["arm"] in SHOWN]
        cells = {r["arm"]: r["seeds"] for r in here if judged(r) == max(map(judged, here))}
        if not cells or any(len(runs.get((task, data, split, arm), {})) < seeds for arm, seeds in cells.items()):
            continue
        figure, axes = plt.subplots(figsize=(5, 3.4))
        for arm in (arm for arm in SHOWN if arm in cells):
            found = list(runs[task, data, split, arm].values())
            length = np.concatenate([r.arrays["history"] for r in found])
            loss = np.concatenate([r.arrays["nll"] for r in found])
            edges = np.unique(np.quantile(length, np.linspace(0, 1, 6)).astype(int))
            bins = np.clip(np.searchsorted(edges, length, side="right") - 1, 0, max(0, len(edges) - 2))
            places = sorted(set(bins.tolist()))
            axes.plot([np.median(length[bins == b]) + 1 for b in places], [loss[bins == b].mean() for b in places], "o-", label=arm)
        axes.set(
            xscale="log", xlabel="events in the history at the last night, plus one", ylabel="nll", title=f"{task} ({data}), {split} users"
        )
        axes.legend(fontsize=7)
        _save(figure, place / f"{task}-{data}-{split}-history.svg")
    return sorted(path.name for path in place.glob("*.svg"))


def age_plots(rows: list[dict[str, Any]], place: Path) -> None:
    """Quality against the age of the state."""
    for (task, data, split), by in ages(rows).items():
        figure, axes = plt.subplots(figsize=(5, 3.4))
        for arm, nights in by.items():
            axes.plot(sorted(nights), [nights[n] for n in sorted(nights)], "o-", label=arm)
        axes.set(
            xscale="symlog",
            xlabel="nights that the state is older than the last one",
            ylabel="nll",
            title=f"{task} ({data}), {split} users",
        )
        axes.legend(fontsize=7)
        _save(figure, place / f"{task}-{data}-{split}-age.svg")


def gain_plot(rows: list[dict[str, Any]], verdicts: list[dict[str, Any]], place: Path) -> None:
    """tide's gain in loss over each rival, in percent of the rival's, with its interval; a line a task and split."""
    found = {rival: [r for r in rivalries(rows, verdicts, (rival,)) if r.tide["metric"] == "nll"] for rival in RIVALS}
    cells = sorted({r.cell for r in found["tapper"]}, reverse=True)
    if not cells:
        return
    figure, axes = plt.subplots(figsize=(7, 1 + 0.7 * len(cells)))
    for at, (rival, mine) in enumerate(found.items()):
        here = [r for r in mine if r.cell in cells]
        gain, low, high = (np.array([100 * r.verdict[name] / r.rival["mean"] for r in here]) for name in ("difference", "low", "high"))
        height = [cells.index(r.cell) + 0.35 - 0.1 * at for r in here]
        axes.errorbar(gain, height, xerr=np.maximum(0, [gain - low, high - gain]), fmt="o", markersize=4, label=f"over {rival}")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(-1, color="grey", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(cells)), [f"{task} ({data}), {split} users" for task, data, split in cells])
    axes.set(xlabel="tide's gain in nll, % of the rival's; bars: 95 %; dotted: -1 %")
    axes.legend(fontsize=7)
    _save(figure, place / GAINS)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    # Without a date, the same figures make the same file.
    mpl.rcParams["svg.hashsalt"] = "tapstate"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
