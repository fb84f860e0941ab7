"""Tables: figures of whole runs, intervals that know whose examples they are, differences in pairs."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from benchmarks.rates import rate_of
from benchmarks.tables import Run, _draws, resampled, write_tables
from benchmarks.variants import Budget, arm_config, arm_section
from schemas.errors import CompatibilityError


def keep(place: Path, arm: str, seed: int, right: np.ndarray, user: np.ndarray) -> None:
    about = {"task": "t", "data": "d", "split": "known", "arm": arm, "seed": seed, "kind": "label", "labels": 2}
    about.update(llm="f" * 64, content="c", device="here", costs={"trained_params": 10.0} if arm == "tide" else {})
    gold = np.arange(len(right)) % 2
    arrays = {"event": np.arange(len(right)), "user": user, "history": user, "gold": gold, "found": np.where(right, gold, 1 - gold)}
    arrays.update(accuracy=right.astype(float), nll=2 - right.astype(float))
    (place / "t@d").mkdir(parents=True, exist_ok=True)
    np.savez(place / "t@d" / f"{arm}-{seed}.npz", **arrays)
    (place / "t@d" / f"{arm}-{seed}.json").write_text(json.dumps(about))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    rng, user = np.random.default_rng(0), np.repeat(np.arange(20), 10)
    for seed in range(2):
        noise = rng.random(200)
        keep(tmp_path / "outcomes", "default", seed, noise < 0.5, user)
        keep(tmp_path / "outcomes", "tide", seed, noise < 0.75, user)
    write_tables(tmp_path / "outcomes", tmp_path / "results")
    return tmp_path / "results"


def test_rows_have_the_promised_keys_and_figures(results: Path) -> None:
    rows = json.loads((results / "quality.json").read_text())
    promised = "task data split arm metric mean low high std seeds users trained_params stored_params_per_user stored_bytes_per_user"
    promised += " stored_bytes_at_512_items ms_per_query night_seconds llm device"
    assert all(set(promised.split()) <= set(row) for row in rows)
    tide = next(r for r in rows if (r["arm"], r["metric"]) == ("tide", "accuracy"))
    assert tide["low"] < tide["mean"] < tide["high"]
    assert tide["mean"] == pytest.approx(0.75, abs=0.06)
    assert (tide["seeds"], tide["users"], tide["trained_params"]) == (2, 20, 10.0)
    assert next(r for r in rows if r["arm"] == "default")["trained_params"] is None


def test_a_verdict_is_positive_where_the_arm_is_better(results: Path) -> None:
    rows = json.loads((results / "verdicts.json").read_text())
    assert {(r["arm"], r["against"]) for r in rows} == {("tide", "default")}
    for row in rows:
        assert 0 < row["low"] <= row["difference"] <= row["high"], row["metric"]
        assert len(row["by_seed"]) == 2
        assert min(row["by_seed"]) <= row["difference"] <= max(row["by_seed"])


def test_making_the_tables_again_changes_nothing_and_keeps_other_rows(results: Path, tmp_path: Path) -> None:
    path = results / "quality.json"
    before = json.loads(path.read_text())
    other = {**before[0], "task": "another"}
    path.write_text(json.dumps([*before, other]))
    write_tables(tmp_path / "outcomes", results)
    assert [r for r in json.loads(path.read_text()) if r["task"] != "another"] == before
    assert other in json.loads(path.read_text())


def test_runs_against_another_llm_or_of_another_budget_are_not_compared(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "outcomes" / "t@d"
    for seed, change in ((0, {"budget": {"history": 1}}), (1, {"budget": {"history": 2}})):
        for arm in ("tide", "default"):
            path = folder / f"{arm}-{seed}.json"
            about = json.loads(path.read_text())
            path.write_text(json.dumps({**about, **(change if arm == "tide" else {"budget": {"history": 1}})}))
    results = tmp_path / "anew"
    write_tables(tmp_path / "outcomes", results)
    assert {row["seeds"] for row in json.loads((results / "verdicts.json").read_text())} == {1}
    path = folder / "tide-1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "llm": "e" * 64}))
    before = (results / "quality.json").read_text()
    with pytest.raises(CompatibilityError, match="LLM ffffffffffff, this one is eeeeeeeeeeee"):
        write_tables(tmp_path / "outcomes", results)
    assert (results / "quality.json").read_text() == before
    write_tables(tmp_path / "outcomes", results, replace=True)
    assert {row["llm"] for row in json.loads((results / "quality.json").read_text())} == {"e" * 64}
    assert json.loads((results / "verdicts.json").read_text()) == []


def test_runs_of_a_configuration_that_was_changed_are_neither_compared_nor_choose_rates(results: Path, tmp_path: Path) -> None:
    budget = Budget()
    config = arm_section(arm_config("tide", 0, budget))
    for seed, loss in ((0, 0.25), (1, 0.75)):
        path = tmp_path / "outcomes" / "t@d" / f"tide-{seed}.json"
        own = {**config, "train": {**config["train"], "relabelled": 0.125 if seed == 0 else config["train"]["relabelled"]}}
        path.write_text(json.dumps({**json.loads(path.read_text()), "budget": asdict(budget), "config": own, "held_out": loss}))
    write_tables(tmp_path / "outcomes", tmp_path / "anew")
    rows = json.loads((tmp_path / "anew" / "quality.json").read_text())
    assert {(row["arm"], row["seeds"]) for row in rows} == {("default", 2), ("tide", 1)}
    assert [row["by_seed"] for row in json.loads((tmp_path / "anew" / "rates.json").read_text())] == [[0.75]]


def test_runs_on_other_events_are_not_compared_and_trials_do_not_count(results: Path, tmp_path: Path) -> None:
    path = tmp_path / "outcomes" / "t@d" / "tide-1.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "tuning_steps": 10, "llm": "e" * 64}))
    write_tables(tmp_path / "outcomes", tmp_path / "trial")
    rows = json.loads((tmp_path / "trial" / "quality.json").read_text())
    assert {(row["arm"], row["seeds"]) for row in rows} == {("default", 2), ("tide", 1)}
    path.write_text(json.dumps({**about, "content": "changed"}))
    write_tables(tmp_path / "outcomes", tmp_path / "changed")
    rows = json.loads((tmp_path / "changed" / "quality.json").read_text())
    assert {(row["arm"], row["seeds"]) for row in rows} == {("tide", 1)}
    write_tables(tmp_path / "outcomes", tmp_path / "former", {("t", "d"): (about["llm"], about["content"])})
    rows = json.loads((tmp_path / "former" / "quality.json").read_text())
    assert {(row["arm"], row["seeds"]) for row in rows} == {("default", 2), ("tide", 1)}, "what is asked for, not what came last"
    write_tables(tmp_path / "outcomes", tmp_path / "former", {("t", "d"): ("0" * 64, "none yet")}, replace=True)
    assert json.loads((tmp_path / "former" / "quality.json").read_text()) == []


def test_a_run_at_another_rate_or_of_other_steps_does_not_count(results: Path, tmp_path: Path) -> None:
    path = tmp_path / "outcomes" / "t@d" / "tide-1.json"
    own = rate_of("t", "tide")
    for number, (rate, steps, seeds) in enumerate(((own, Budget.steps, 2), (10.0, Budget.steps, 1), (own, 20, 1))):
        path.write_text(json.dumps({**json.loads(path.read_text()), "budget": {"learning_rate": rate, "steps": steps}, "held_out": 0.5}))
        write_tables(tmp_path / "outcomes", tmp_path / str(number))
        rows = json.loads((tmp_path / str(number) / "quality.json").read_text())
        assert {row["seeds"] for row in rows if row["arm"] == "tide"} == {seeds}


def test_losses_of_rates_are_of_the_present_llm_and_of_whole_trainings(results: Path, tmp_path: Path) -> None:
    path = tmp_path / "outcomes" / "t@d" / "tide-0.json"
    about = json.loads(path.read_text())
    for name, loss, budget, llm in (
        ("tide-0", 0.5, {"learning_rate": 1e-3, "steps": Budget.steps}, "f" * 64),
        ("tide-0-more", 0.4, {"learning_rate": 1e-2, "steps": Budget.steps}, "f" * 64),
        ("tide-0-short", 0.3, {"learning_rate": 1e-3, "steps": 20}, "f" * 64),
        ("tide-0-other", 0.2, {"learning_rate": 3e-3, "steps": Budget.steps}, "e" * 64),
    ):
        path.with_stem(name).write_text(json.dumps({**about, "held_out": loss, "budget": budget, "llm": llm}))
    write_tables(tmp_path / "outcomes", results)
    rates = json.loads((results / "rates.json").read_text())
    assert {row["learning_rate"]: row["held_out"] for row in rates} == {1e-3: 0.5, 1e-2: 0.4}


def test_a_run_that_does_not_count_decides_nothing(results: Path, tmp_path: Path) -> None:
    """Of another LLM, and the latest: without the order of its file, every other row would go."""
    path = tmp_path / "outcomes" / "t@d" / "tide-1.json"
    about = json.loads(path.read_text())
    strange = path.with_stem("tide-0-short")
    strange.write_text(json.dumps({**about, "llm": "e" * 64, "budget": {"steps": 10}}))
    strange.with_suffix(".npz").write_bytes(path.with_suffix(".npz").read_bytes())
    before = (results / "quality.json").read_text()
    write_tables(tmp_path / "outcomes", results)
    assert (results / "quality.json").read_text() == before


def test_of_several_runs_the_one_of_more_examples_counts(tmp_path: Path) -> None:
    user = np.repeat(np.arange(20), 10)
    for examples in (200, 50):
        keep(tmp_path / "outcomes", "tide", 0, np.ones(examples, bool), user[:examples])
        for path in (tmp_path / "outcomes" / "t@d").glob("tide-0.*"):
            made = path.rename(path.with_stem(f"tide-0-{examples}"))
            if made.suffix == ".json":
                made.write_text(json.dumps({**json.loads(made.read_text()), "examples": examples}))
    write_tables(tmp_path / "outcomes", tmp_path / "results")
    assert {row["examples"] for row in json.loads((tmp_path / "results" / "quality.json").read_text())} == {200}


def test_mean_interval_and_gain_are_of_the_same_pool(tmp_path: Path) -> None:
    """Two seeds of unequal sizes: the mean is over the examples, and the gain is the difference of two means."""
    for arm, right in (("tide", (0.9, 0.5)), ("default", (0.6, 0.4))):
        for seed, size in enumerate((200, 50)):
            keep(tmp_path / "outcomes", arm, seed, np.arange(size) < right[seed] * size, np.arange(size) % 10)
    write_tables(tmp_path / "outcomes", tmp_path / "results")
    quality, verdicts = (json.loads((tmp_path / "results" / name).read_text()) for name in ("quality.json", "verdicts.json"))
    for metric in ("accuracy", "f1"):
        mean = {row["arm"]: row["mean"] for row in quality if row["metric"] == metric}
        (gain,) = (row["difference"] for row in verdicts if row["metric"] == metric)
        assert gain == pytest.approx(mean["tide"] - mean["default"], abs=2e-5)
    assert {row["mean"] for row in quality if (row["arm"], row["metric"]) == ("tide", "accuracy")} == {0.82}


def test_answers_that_only_one_arm_wrote_out_are_not_compared(tmp_path: Path) -> None:
    user, gold = np.arange(20), np.where(np.arange(20) < 10, 0.2, 0.8)
    for arm, there in (("tide", np.arange(20) < 10), ("oppu", np.ones(20, bool))):
        keep(tmp_path / "outcomes", arm, 0, np.ones(20, bool), user)
        path = tmp_path / "outcomes" / "t@d" / f"{arm}-0.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "kind": "text"}))
        with np.load(path.with_suffix(".npz")) as arrays:
            scores = np.where(there, gold, np.nan)
            np.savez(path.with_suffix(".npz"), **arrays, rouge1=scores, rougeL=scores)
    write_tables(tmp_path / "outcomes", tmp_path / "results")
    quality, verdicts = (json.loads((tmp_path / "results" / name).read_text()) for name in ("quality.json", "verdicts.json"))
    assert {row["arm"]: row["users"] for row in quality if row["metric"] == "rougeL"} == {"tide": 10, "oppu": 20}
    assert [(row["difference"], row["users"]) for row in verdicts if row["metric"] == "rougeL"] == [(0.0, 10)]


def test_a_cache_of_fewer_seeds_leaves_the_rows_of_more(results: Path, tmp_path: Path) -> None:
    before = {name: json.loads((results / name).read_text()) for name in ("quality.json", "verdicts.json")}
    for path in (tmp_path / "outcomes" / "t@d").glob("tide-1.*"):
        path.unlink()
    write_tables(tmp_path / "outcomes", results)
    assert {name: json.loads((results / name).read_text()) for name in before} == before


def test_resampled_f1_is_that_of_the_resampled_examples() -> None:
    rng = np.random.default_rng(1)
    user, gold, found = rng.integers(0, 5, 60), rng.integers(0, 4, 60), rng.integers(-1, 4, 60)
    run = Run({"labels": 4}, {"user": user, "gold": gold, "found": found})
    users = np.arange(5)
    draws = _draws(5)[:7]
    for counts, value in zip(draws, resampled("f1", [run], draws, users), strict=True):
        rows = np.concatenate([np.flatnonzero(user == u) for u in users for _ in range(counts[u])])
        assert value == pytest.approx(f1_score(gold[rows], found[rows], labels=range(4), average="macro", zero_division=0))


def test_clustered_intervals_are_wider_where_users_differ() -> None:
    """All examples of a user alike: twenty users are twenty observations, not two hundred."""
    user = np.repeat(np.arange(20), 10)
    alike = Run({}, {"user": user, "nll": (user % 2).astype(float)})
    mixed = Run({}, {"user": user, "nll": (np.arange(200) % 2).astype(float)})
    wide, narrow = (resampled("nll", [run], _draws(20), np.arange(20)).std() for run in (alike, mixed))
    assert wide > 5 * narrow


def test_an_arm_of_some_users_is_compared_on_their_examples(tmp_path: Path) -> None:
    """Right about the five users that it judged; the other is right about everybody else."""
    user = np.repeat(np.arange(20), 10)
    keep(tmp_path / "outcomes", "tide", 0, user >= 5, user)
    keep(tmp_path / "outcomes", "oppu", 0, np.ones(50, bool), user[:50])
    write_tables(tmp_path / "outcomes", tmp_path / "results")
    rows = json.loads((tmp_path / "results" / "verdicts.json").read_text())
    found = next(r for r in rows if (r["arm"], r["against"], r["metric"]) == ("oppu", "tide", "accuracy"))
    assert (found["difference"], found["users"]) == (1.0, 5)
