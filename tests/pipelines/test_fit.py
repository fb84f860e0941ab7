"""Training from a home: an aggregator, a head and an LLM come out, and a bundle of a version answers with them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from encoders.llm import FrozenLLM
from encoders.text import TextEncoder
from pipelines.evaluate import evaluate_bundle
from pipelines.examples import read_events, tuning_users
from pipelines.fit import fit
from pipelines.ingest import ingest
from pipelines.publish import publish
from pipelines.sources.synthetic import SyntheticSource
from schemas.config import TrainConfig
from schemas.errors import InputError
from schemas.records import VersionRecord
from store.client import Bundle
from store.events import EventLog
from store.home import Home
from store.lines import Lines
from store.models import Models

TRAIN = TrainConfig(steps=6, evaluate_every=3, llm_steps=4, prefix_length=2, history=16, batch_size=8)


@pytest.fixture(scope="module")
def source() -> SyntheticSource:
    return SyntheticSource(users=60, first_day=0, last_day=12, days=14, daily=1.0, seed=5)


def test_fit_then_refresh_then_bundle(new_home: Callable[..., Home], night: Callable[..., VersionRecord], source: SyntheticSource) -> None:
    home = new_home(train=TRAIN)
    ingest(home, source, historical=True)
    fitted = fit(home, home.config)
    models = Models(home)
    assert Lines(home).newest() == fitted.aggregator
    assert models.current_head(fitted.aggregator) == fitted.head
    about = json.loads((models.directory(fitted.head) / "head.json").read_text())
    assert about["aggregator"] == fitted.aggregator
    assert about["llm"]["fingerprint"] == fitted.llm["fingerprint"]
    assert set(fitted.metrics["loss"]) == {"right", "default", "wrong"}
    version = night(home)
    assert version.trained
    assert version.aggregator == fitted.aggregator
    uri, manifest = publish(home, version, TextEncoder(home.config.encoder))
    assert manifest["head"] == fitted.head
    later = next(iter(SyntheticSource(60, 12, 13, 14, 1.0, 5).batches())).rows.select("user_id", "ts", "text", "target")
    llm = FrozenLLM.load(home.config.llm.model_copy(update={"model": str(models.directory(fitted.llm["fingerprint"]))}))
    bundle = Bundle.open(uri)
    found = evaluate_bundle(bundle, llm, later)
    assert all(0 < found["loss"][arm] < 20 for arm in ("right", "default", "wrong"))
    mine, theirs, nobody = bundle.prefix([*later["user_id"].unique().sort()[:2], "nobody"], ["planning breakfast"] * 3).prefix
    assert not np.array_equal(mine, theirs)
    assert not np.array_equal(mine, nobody)


def test_the_llm_is_kept_and_the_same_seed_trains_the_same(new_home: Callable[..., Home], source: SyntheticSource) -> None:
    home = new_home(train=TRAIN)
    ingest(home, source, historical=True)
    first = fit(home, home.config)
    second = fit(home, home.config)
    assert (first.aggregator, first.head, first.llm) == (second.aggregator, second.head, second.llm)
    other = fit(home, home.config.model_copy(update={"seed": 9}))
    assert other.llm == first.llm
    assert other.aggregator != first.aggregator


def test_tuning_users_train_no_head(new_home: Callable[..., Home], source: SyntheticSource) -> None:
    home = new_home()
    ingest(home, source, historical=True)
    events = read_events(EventLog(home), home.config, 1)
    tuning = set(events.filter(tuning_users())["user_id"])
    assert 0 < len(tuning) < 0.6 * events["user_id"].n_unique()
    assert not tuning & set(events.filter(~tuning_users())["user_id"])


def test_a_home_without_histories_is_refused(new_home: Callable[..., Home], put: Callable[..., object], tmp_path: Path) -> None:
    home = new_home()
    with pytest.raises(InputError, match="no events to train on"):
        fit(home, home.config)
    put(home, [{"user_id": f"u{i}", "ts": "2024-01-01", "text": "once", "target": "x"} for i in range(40)])
    with pytest.raises(InputError, match="training needs 10"):
        fit(home, home.config)
