"""Several tasks from ingest to bundle: one training, one head, an instruction and a prompt for each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from encoders.checkpoint import load_head, pack_head
from encoders.llm import FrozenLLM
from pipelines.described import described_llm
from pipelines.drift import prefix_ratio
from pipelines.encode import encode_events
from pipelines.encoder import KnownEncoder
from pipelines.evaluate import evaluate_bundle
from pipelines.examples import build_examples, read_events, tuning_pairs
from pipelines.fit import fit
from pipelines.ingest import ingest
from pipelines.meter import Silent
from pipelines.publish import publish
from pipelines.sources.table import TableSource
from schemas.config import LLMConfig, PplugConfig, TapperConfig, TrainConfig
from schemas.errors import InputError
from schemas.records import IngestRecord, VersionRecord
from store import open_store
from store.client import Bundle
from store.comparison import View
from store.embeddings import Embeddings
from store.events import EventLog
from store.home import Home
from store.models import Models

TRAIN = TrainConfig(steps=6, evaluate_every=3, llm_steps=4, prefix_length=2, history=16, batch_size=8)
LLM = LLMConfig(prompts={"rating": "{text} stars:"})
DAY, START, TASKS = 86_400, 1_700_006_400, ["headline", "rating"]
Put = Callable[..., IngestRecord]


def rows(first: int, last: int, users: int = 24) -> list[dict[str, Any]]:
    """Every user is asked one text a day, once for each task and once for none."""
    return [
        {
            "user_id": f"user{user}",
            "ts": START + day * DAY + 60 * user + k,
            "text": f"film {(user * day) % 9}",
            "target": target,
            "task": task,
        }
        for day in range(first, last)
        for user in range(users)
        for k, (task, target) in enumerate([("rating", f"{1 + user % 5}"), ("headline", f"news {user % 3}"), (None, "seen")])
    ]


def test_ingest_keeps_tasks_and_corrects_them(home: Home, put: Put, tmp_path: Path) -> None:
    one = {"user_id": "u", "event_id": "e", "ts": START, "text": "x"}
    put(home, [{**one, "task": " rating "}, {**one, "event_id": "f"}, {**one, "event_id": "g", "task": "t" * 65}])
    assert open_store(home.uri).sql("SELECT event_id, task FROM events ORDER BY event_id").rows() == [("e", "rating"), ("f", None)]
    assert EventLog(home).reasons(0, 1) == {"task is longer than 64 bytes": 1}
    again = put(home, [{**one, "task": "rating"}, {**one, "event_id": "f", "task": "headline"}])
    assert (again.duplicate, again.corrected) == (1, 1)
    (tmp_path / "t.csv").write_text(f"user_id,ts,text,kind\nv,{START},y,news\n")
    ingest(home, TableSource([str(tmp_path / "t.csv")], {"task": "kind"}))
    ingest(home, TableSource([str(tmp_path / "t.csv")], {}, {"task": "rating", "event_id": "c"}))
    found = open_store(home.uri).events(["v"], ["event_id", "task"])
    assert sorted(found["task"]) == ["news", "rating"]


def test_examples_and_prompts_know_their_task(new_home: Callable[..., Home], put: Put) -> None:
    home = new_home(llm=LLM)
    put(home, rows(0, 6))
    log, known = EventLog(home), KnownEncoder(home, home.config.encoder)
    encode_events(log, known, Silent(), until=1)
    events, cache = read_events(log, home.config, 1), Embeddings(home, known.fingerprint, known.dim)
    made = build_examples(events, cache, home.config)
    assert made.tasks == TASKS
    assert {(made.tasks[t] if t >= 0 else None, target.split(" ")[0]) for t, target in zip(made.task, made.targets, strict=True)} == {
        *(("rating", str(stars)) for stars in range(1, 6)), ("headline", "news"), (None, "seen")
    }  # fmt: skip
    asked = np.array(made.prompts)
    assert all(prompt.endswith(" stars:") for prompt in asked[made.task == 1])
    assert all(prompt.endswith(" =>") for prompt in asked[made.task != 1])
    assert made.event_task.tolist() == [-1 if task is None else TASKS.index(task) for task in events["task"]]
    lessons = tuning_pairs(events, cache, home.config)
    stars = np.array([prompt.endswith(" stars:") for prompt in lessons.prompts])
    rating = np.array([target in set("12345") for target in lessons.targets])
    told = np.array(lessons.told)
    np.testing.assert_array_equal(stars[~told], rating[~told])
    many = events.with_columns(task=pl.col("event_key").rank("dense").mod(65).cast(pl.String))
    with pytest.raises(InputError, match="65 tasks"):
        build_examples(many, cache, home.config)
    none = build_examples(events.with_columns(task=pl.lit(None, pl.String)), cache, home.config)
    assert (none.tasks, set(none.task.tolist()), set(none.event_task.tolist())) == ([], {-1}, {-1})


@pytest.mark.parametrize("personalizer", ["tide", "pplug", "tapper"])
def test_one_training_to_one_bundle(
    new_home: Callable[..., Home], put: Put, night: Callable[..., VersionRecord], personalizer: str
) -> None:
    sections = {"pplug": PplugConfig(items=6), "tapper": TapperConfig(items=6, row_events=4, row_session=2, row_steps=1)}
    train = TRAIN.model_copy(update={"learning_rate": 0.05})
    home = new_home(train=train, llm=LLM, personalizer=personalizer, shard_events=4096, **sections)
    put(home, rows(0, 6))
    fitted = fit(home, home.config)
    assert fitted.llm["prompts"] == {"rating": "{text} stars:"}
    assert set(fitted.metrics["tasks"]) == set(TASKS)
    night(home)
    put(home, rows(6, 7), name="later.jsonl")
    version = night(home)
    assert all(check.passed for check in version.checks)
    uri, manifest = publish(home, version, KnownEncoder(home, home.config.encoder), delta=False)
    assert manifest["tasks"] == TASKS
    cases = json.loads((Path(uri) / "golden.json").read_text())["cases"]
    assert {case["task"] for case in cases} == {None, *TASKS}
    bundle = Bundle.open(uri)
    bundle.verify()
    users, texts = ["user1", "user2", "nobody"], ["film 1"] * 3
    found = {task: bundle.prefix(users, texts, now=START + 8 * DAY, task=task).prefix for task in (None, *TASKS)}
    steps = [found[task] - found[None] for task in TASKS]
    assert all(np.abs(step).max() > 1e-4 for step in steps)
    assert np.abs(steps[0] - steps[1]).max() > 1e-4
    # An instruction is the same for everyone.
    assert all(np.abs(step - step[:1]).max() < 1e-4 for step in steps)
    later = pl.DataFrame(rows(8, 9)).select("user_id", "ts", "text", "target", "task")
    llm = described_llm(home, fitted.llm)
    assert isinstance(llm, FrozenLLM)
    assert llm.config.prompts == LLM.prompts
    told = evaluate_bundle(bundle, llm, later)["loss"]
    assert all(np.isfinite(loss) for loss in told.values())
    assert told != evaluate_bundle(bundle, llm, later.with_columns(task=pl.lit(None, pl.String)))["loss"]


def test_an_instruction_that_is_too_loud_is_seen_before_it_is_served(
    new_home: Callable[..., Home], put: Put, night: Callable[..., VersionRecord], tmp_path: Path
) -> None:
    home = new_home(train=TRAIN)
    put(home, rows(0, 6))
    fitted = fit(home, home.config)
    version = night(home)
    head, adapter, configuration = load_head(Models(home).directory(fitted.head))
    assert head.instructions is not None
    with torch.no_grad():
        head.instructions.vectors[1] += 1_000
    for name, data in pack_head(head, adapter, configuration["aggregator"], configuration["llm"], {})[1].items():
        (tmp_path / name).write_bytes(data)
    view = View.of(home, version)
    assert prefix_ratio(tmp_path, view, 0) > 100 > prefix_ratio(Models(home).directory(fitted.head), view, 0)


def test_prompts_that_come_later_leave_the_homes_llm_where_the_home_goes(new_home: Callable[..., Home], put: Put, tmp_path: Path) -> None:
    home = new_home(train=TRAIN, personalizer="tapper", tapper=TapperConfig(items=6, row_events=4, row_session=2, row_steps=1))
    put(home, rows(0, 6))
    first = fit(home, home.config)
    second = fit(home, home.config.model_copy(update={"llm": LLM}))
    assert first.llm["fingerprint"] != second.llm["fingerprint"]
    Path(home.uri).rename(tmp_path / "moved")
    moved = Home(str(tmp_path / "moved"))
    for fitted in (first, second):
        assert described_llm(moved, fitted.llm).fingerprint == fitted.llm["fingerprint"]


def test_without_tasks_nothing_speaks_of_them(new_home: Callable[..., Home], put: Put, night: Callable[..., VersionRecord]) -> None:
    home = new_home(train=TRAIN)
    put(home, [{**row, "task": None} for row in rows(0, 6)])
    fitted = fit(home, home.config)
    assert "tasks" not in fitted.metrics
    assert "prompts" not in fitted.llm
    uri, manifest = publish(home, night(home), KnownEncoder(home, home.config.encoder))
    assert "tasks" not in manifest
    assert all("task" not in case for case in json.loads((Path(uri) / "golden.json").read_text())["cases"])
    assert Bundle.open(uri).tasks == ()
