"""Training from a home: an aggregator, a head and an LLM come out, and a bundle of a version answers with them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from peft import PeftModel

from encoders.llm import FrozenLLM
from encoders.prompts import render
from encoders.tuning import small_causal
from pipelines.encoder import KnownEncoder
from pipelines.erase import Erasure
from pipelines.evaluate import evaluate_bundle
from pipelines.examples import read_events, tuning_users
from pipelines.fit import fit
from pipelines.ingest import ingest
from pipelines.publish import publish
from pipelines.sources.synthetic import SyntheticSource
from schemas.config import LLMConfig, PplugConfig, TapperConfig, TrainConfig
from schemas.errors import CompatibilityError, InputError, NotFoundError
from schemas.records import VersionRecord
from store.client import Bundle
from store.differences import differences
from store.events import EventLog
from store.home import Home
from store.lines import Lines
from store.live import Live
from store.manifest import BRIDGE
from store.models import Models
from store.states import States

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
    uri, manifest = publish(home, version, KnownEncoder(home, home.config.encoder))
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


@pytest.fixture(scope="module")
def other_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal LLM that no home made."""
    torch.manual_seed(7)
    directory = tmp_path_factory.mktemp("llm")
    model, tokenizer = small_causal(["planning breakfast"] * 40, width=48, layers=1)
    FrozenLLM(model, tokenizer, LLMConfig()).save(directory)
    return directory


def _states(home: Home, version: VersionRecord) -> pa.Table:
    return States(home, version.aggregator, Models(home).spec(version.aggregator)).read(version.runs)


@pytest.mark.parametrize("personalizer", ["pplug", "tapper"])
def test_the_other_personalizers_are_refreshed_bundled_and_served_alike(
    new_home: Callable[..., Home], night: Callable[..., VersionRecord], source: SyntheticSource, other_llm: Path, personalizer: str
) -> None:
    """One night, one more and an erasure through the same calls; then another LLM's head on the same states, where they belong to none."""
    sections = {"pplug": PplugConfig(items=6), "tapper": TapperConfig(items=6, row_events=4, row_session=2, row_steps=1)}
    home = new_home(train=TRAIN, personalizer=personalizer, **sections)
    ingest(home, replace(source, last_day=11), historical=True)
    if personalizer == "tapper":
        with pytest.raises(CompatibilityError, match="belong to an LLM"):
            night(home)
    fitted = fit(home, home.config)
    first = night(home)
    ingest(home, replace(source, first_day=11), historical=True)
    second = night(home)
    assert (first.personalizer, second.aggregator, second.parent) == (personalizer, fitted.aggregator, first.number)
    assert 0 < second.users_changed < second.users
    encoder = KnownEncoder(home, home.config.encoder)
    bundle = Bundle.open(publish(home, second, encoder)[0])
    bundle.verify()
    users = next(iter(source.batches())).rows["user_id"].unique().sort()[:2].to_list()
    mine, theirs, nobody = bundle.prefix([*users, "nobody"], ["planning breakfast"] * 3).prefix
    assert mine.shape == (2, fitted.llm["hidden_size"])
    assert not np.array_equal(mine, theirs)
    assert not np.array_equal(mine, nobody)
    kept = _states(home, second)
    receipt = Erasure(home, [users[0]]).erase("asked for")
    assert receipt.proof.hits == ()
    assert f"model {fitted.aggregator[:12]}: a checkpoint" in " ".join(receipt.cannot_undo)
    assert _states(home, second).equals(kept.filter(pc.field("user_id") != users[0]))
    config = home.config.model_copy(update={"llm": LLMConfig(model=str(other_llm))})
    if personalizer == "tapper":
        with pytest.raises(CompatibilityError, match="no other head fits"):
            fit(home, config, head_only=True)
        return
    other = fit(home, config, head_only=True)
    assert other.aggregator == fitted.aggregator
    assert other.llm["hidden_size"] == 48
    assert Models(home).current_head(fitted.aggregator) == fitted.head
    uri, manifest = publish(home, second, encoder, head=other.head)
    assert Bundle.open(uri).prefix(users, ["planning breakfast"] * 2).prefix.shape == (2, 2, 48)
    assert manifest["llm"]["fingerprint"] == other.llm["fingerprint"]
    assert Bundle.open(f"{home.uri}/bundles").manifest["head"] == fitted.head


def test_a_bridge_travels_in_the_bundle_and_serves_by_peft_alone(
    new_home: Callable[..., Home], night: Callable[..., VersionRecord], source: SyntheticSource
) -> None:
    tapper = TapperConfig(items=6, row_events=4, row_session=2, row_steps=1, bridge=2)
    home = new_home(train=TRAIN.model_copy(update={"learning_rate": 0.02}), personalizer="tapper", tapper=tapper)
    ingest(home, replace(source, last_day=11), historical=True)
    fitted = fit(home, home.config)
    torch.rand(3)
    assert fit(home, home.config).head == fitted.head, "the same seed, whatever was drawn before"
    models, encoder = Models(home), KnownEncoder(home, home.config.encoder)
    version = night(home)
    full = Bundle.open(publish(home, version, encoder)[0])
    ingest(home, replace(source, first_day=11), historical=True)
    delta = Bundle.open(publish(home, night(home), encoder, delta=True)[0])
    assert full.bridge == delta.bridge == full.path, "a delta leaves the bridge to its base"
    delta.verify()
    assert not set(BRIDGE) & set(differences(full, delta)["model"])
    llm = FrozenLLM.load(home.config.llm.model_copy(update={"model": str(models.directory(fitted.llm["fingerprint"]))}))
    before = llm.fingerprint
    later = next(iter(SyntheticSource(60, 12, 13, 14, 1.0, 5).batches())).rows.select("user_id", "ts", "text", "target").head(8)
    served = evaluate_bundle(delta, llm, later)
    assert llm.fingerprint == before, "it comes off again"
    answer = delta.prefix(later["user_id"].to_list(), later["text"].to_list(), now=float(later["ts"].max()))
    prompts = [render(llm.config.prompt, text) for text in later["text"]]

    def loss() -> float:
        with torch.no_grad():
            return float(llm.loss(torch.from_numpy(answer.prefix), prompts, later["target"].to_list())[0].mean())

    assert abs(served["loss"]["right"] - loss()) > 0.01, "the bridge says something"
    # As a serving team has it: peft's own loader on the LLM, and no bridge of ours.
    PeftModel.from_pretrained(llm.model, str(delta.bridge))
    assert served["loss"]["right"] == pytest.approx(loss(), abs=1e-3)
    # Another LoRA is not swapped in under a running server.
    with Live(f"{home.uri}/bundles") as live:
        fit(home, home.config.model_copy(update={"seed": 9}))
        publish(home, night(home, full=True), encoder)
        with pytest.raises(CompatibilityError, match="another LoRA"):
            live.refresh()


def test_a_head_alone_needs_an_aggregator_of_its_kind(new_home: Callable[..., Home], source: SyntheticSource) -> None:
    home = new_home(train=TRAIN)
    ingest(home, source, historical=True)
    with pytest.raises(NotFoundError, match="no aggregator"):
        fit(home, home.config, head_only=True)
    fit(home, home.config)
    with pytest.raises(CompatibilityError, match="is of tide"):
        fit(home, home.config.model_copy(update={"personalizer": "pplug"}), head_only=True)
