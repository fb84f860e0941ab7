"""Training's mechanics on a planted task; what it reaches is the demo's and the benchmarks' to show."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from planted import examples_of

from encoders import relabelling, training
from encoders.adapter import QueryAdapter
from encoders.examples import DAY, Examples
from encoders.head import TideHead
from encoders.llm import FrozenLLM
from encoders.relabelling import relabelled
from encoders.training import Model, Trained, evaluate, train
from schemas.config import Config

ARMS = {"right", "default", "wrong"}
CONFIG = Config.model_validate(
    {
        "seed": 3,
        "tide": {"slots": 3, "dim": 8, "window": 4, "hidden": 8},
        "train": {"prefix_length": 2, "history": 6, "batch_size": 8, "steps": 24, "evaluate_every": 6, "learning_rate": 0.02},
    }
)


@pytest.fixture(scope="module")
def planted() -> Examples:
    """Twelve users, each always answers one of two ways; every event but the first day's is an example."""
    users, days = 12, 10
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(users), days)
    ts = 1_700_000_000 // DAY * DAY + np.tile(np.arange(days), users) * DAY + rng.integers(0, DAY // 2, users * days)
    vectors = rng.standard_normal((6, 16)).astype(np.float16)
    text, answer = rng.integers(0, 4, len(user)), user % 2
    asked = np.flatnonzero(np.tile(np.arange(days), users) > 0)
    return examples_of(vectors, user, ts, text, answer, asked, ("music", "politics"))


@pytest.fixture(scope="module")
def llm(tiny_llms: Callable[[str], FrozenLLM]) -> FrozenLLM:
    return tiny_llms("llama")


@pytest.fixture(scope="module")
def steps_seen() -> list[int]:
    return []


@pytest.fixture(scope="module")
def trained(planted: Examples, llm: FrozenLLM, steps_seen: list[int]) -> Trained:
    return train(planted, llm, CONFIG, lambda done, _: steps_seen.append(done))


def held_out(examples: Examples) -> np.ndarray:
    order = np.argsort(examples.now, kind="stable")
    return order[-int(len(order) * CONFIG.train.held_out) :]


def weights(found: Trained) -> dict[str, torch.Tensor]:
    modules = {"aggregator": found.aggregator, "adapter": found.adapter, "head": found.head}
    return {f"{part}.{name}": x for part, module in modules.items() for name, x in module.state_dict().items()}


def test_metrics_are_those_of_the_weights_given_back(planted: Examples, llm: FrozenLLM, trained: Trained) -> None:
    metrics = trained.metrics
    assert set(metrics["loss"]) == set(metrics["accuracy"]) == ARMS
    assert metrics["held_out"] == len(held_out(planted)) == len(planted) - metrics["examples"]
    assert metrics["step"] % CONFIG.train.evaluate_every == 0
    model = Model(trained.aggregator, trained.adapter, trained.head, CONFIG.train)
    again = evaluate(model.to(llm.device), llm, planted, held_out(planted), CONFIG.seed)
    model.cpu().eval()
    for part in ("loss", "accuracy"):
        assert again[part] == pytest.approx(metrics[part], abs=1e-5)


def test_training_moves_everything_but_the_llm(planted: Examples, llm: FrozenLLM) -> None:
    before = {name: x.clone() for name, x in llm.model.state_dict().items()}
    first = weights(train(planted, llm, with_train(steps=1, learning_rate=1e-9)))
    last = weights(train(planted, llm, with_train(steps=8)))
    for name, x in llm.model.state_dict().items():
        assert torch.equal(x, before[name]), name
    assert all(p.grad is None for p in llm.model.parameters())
    still = {name for name in first if torch.allclose(first[name], last[name], atol=1e-6)}
    # No event has a value here, so its scale stays.
    assert still == {"aggregator.value_mean", "aggregator.value_std"}


def with_train(**options: Any) -> Config:
    return CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update=options)})


def test_progress_counts_steps_and_loss_falls(planted: Examples, llm: FrozenLLM, trained: Trained, steps_seen: list[int]) -> None:
    assert steps_seen == [1] * trained.metrics["steps"]
    untrained = train(planted, llm, with_train(steps=1, learning_rate=1e-9))
    assert trained.metrics["loss"]["right"] < untrained.metrics["loss"]["right"] - 0.05
    # Before the first step a head says the targets of the window and nothing else.
    assert untrained.head.out.weight.abs().max() <= 1e-6
    assert untrained.head.naming.weight.abs().max() > 1e-3


def test_the_same_seed_gives_the_same_weights(planted: Examples, llm: FrozenLLM, trained: Trained) -> None:
    torch.manual_seed(99)
    again, other = train(planted, llm, CONFIG), train(planted, llm, CONFIG.model_copy(update={"seed": 4}))
    assert again.metrics == trained.metrics
    for name, x in weights(trained).items():
        assert torch.equal(weights(again)[name], x), name
    assert not torch.allclose(weights(other)["head.query.weight"], weights(trained)["head.query.weight"])


def test_the_best_weights_are_restored_and_patience_ends_it(planted: Examples, llm: FrozenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, seen = iter([3.0, 1.0, 2.0, 1.5, 0.1]), []

    def judged(model: Model, *_: Any) -> dict[str, dict[str, float]]:
        seen.append({name: x.clone().cpu() for name, x in model.state_dict().items()})
        return {"loss": {"right": next(scores)}, "accuracy": {}}

    monkeypatch.setattr(training, "evaluate", judged)
    found = train(planted, llm, with_train(steps=50, evaluate_every=2, patience=2))
    assert len(seen) == 4
    assert (found.metrics["step"], found.metrics["steps"], found.metrics["loss"]["right"]) == (4, 8, 1.0)
    for name, x in weights(found).items():
        assert torch.equal(x, seen[1][name]), name
    assert not torch.equal(seen[1]["head.out.weight"], seen[3]["head.out.weight"])
    assert not found.head.training


def test_held_out_examples_are_the_latest_and_never_trained_on(planted: Examples, llm: FrozenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are copies made of them; half of the examples are copies, which nobody bears and whose histories are never masked."""
    drawn, shown, kept = list[np.ndarray](), list[Examples](), list[np.ndarray]()
    prefix = Model.prefix

    def watched(self: Model, examples: Examples, rows: np.ndarray, **options: Any) -> torch.Tensor:
        if "lag_nights" in options:
            drawn.append(rows)
            shown.append(examples)
            kept.append(options["keep"])
            assert (options["lag_nights"] <= CONFIG.train.max_lag_nights).all()
        return prefix(self, examples, rows, **options)

    monkeypatch.setattr(Model, "prefix", watched)
    train(planted, llm, with_train(steps=30, evaluate_every=30, history_dropout=0.5))
    rows = np.concatenate(drawn)
    assert len(rows) == 30 * CONFIG.train.batch_size
    now = np.concatenate([examples.now[some] for examples, some in zip(shown, drawn, strict=True)])
    user = np.concatenate([examples.user[some] for examples, some in zip(shown, drawn, strict=True)])
    copy = rows >= len(planted)
    assert not np.isin(rows, held_out(planted)).any()
    assert now.max() <= planted.now[held_out(planted)].min()
    assert 0.4 < copy.mean() < 0.6
    np.testing.assert_array_equal(user == -1, copy)
    keep = np.concatenate(kept)
    assert keep[copy].all()
    assert 0.3 < keep[~copy].mean() < 0.7


def test_the_papers_methods_learn_from_no_copies(planted: Examples, llm: FrozenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    for personalizer in ("tide", "pplug", "tapper"):
        config = with_train(steps=1).model_copy(update={"personalizer": personalizer})

        def told(*given: Any, name: str = personalizer) -> Examples:
            copied.append(name)
            return relabelled(*given)

        monkeypatch.setattr(relabelling, "relabelled", told)
        train(planted, llm, config)
    assert copied == ["tide"]


def test_the_three_arms_differ_by_history_alone(planted: Examples, trained: Trained) -> None:
    model = Model(trained.aggregator, trained.adapter, trained.head, CONFIG.train).eval()
    rows = np.flatnonzero(planted.now // DAY * DAY > planted.ts.min() + 5 * DAY)[:6]
    with torch.no_grad():
        right = model.prefix(planted, rows)
        assert torch.equal(model.prefix(planted, rows, histories=rows), right)
        default = model.prefix(planted, rows, keep=np.zeros(len(rows), bool), masked_query=True)
        assert torch.allclose(default, default[:1].expand_as(default), atol=1e-6)
        stranger = model.prefix(planted, rows, histories=planted.strangers(np.arange(len(planted)), np.random.default_rng(0))[rows])
    assert (right - stranger).abs().max() > 1e-4
    assert (right - default).abs().max() > 1e-4


def test_adapter_starts_as_the_identity() -> None:
    query = torch.randn(5, 16)
    adapter = QueryAdapter(16, rank=4)
    assert torch.equal(adapter(query), query)
    adapter(query).sum().backward()
    assert adapter.up.weight.grad.abs().max() > 0


def test_trained_parts_are_on_the_cpu_and_bound(trained: Trained) -> None:
    assert isinstance(trained.head, TideHead)
    assert {p.device.type for module in (trained.aggregator, trained.adapter, trained.head) for p in module.parameters()} == {"cpu"}
    torch.testing.assert_close(trained.head.slot_decay, (trained.aggregator.decay() * DAY).float().detach())
