"""Several tasks in one head: each has an instruction of its own, and a head without tasks is what it was."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from planted import examples_of

from encoders.adapter import QueryAdapter
from encoders.checkpoint import load_aggregator, load_head, pack_aggregator, pack_head
from encoders.examples import DAY, Examples
from encoders.export import export_head
from encoders.instructions import Instructions
from encoders.llm import FrozenLLM
from encoders.personalizer import Aggregator, EventBatch, Head
from encoders.registry import KINDS, new_aggregator, new_head
from encoders.tapper import TapperBank
from encoders.training import Model, Trained, evaluate, train
from schemas.config import Config, LLMConfig
from schemas.states import StateBatch

DIM, LLM_DIM, LENGTH, NOW = 16, 6, 3, 1_760_000_000
TASKS = ("headline", "rating")
SECTIONS: dict[str, Any] = {
    "seed": 3,
    "tide": {"slots": 3, "dim": 8, "window": 4, "hidden": 8},
    "pplug": {"items": 7},
    "tapper": {"items": 7, "row_events": 6, "row_session": 2},
    "train": {"prefix_length": 2, "history": 6, "batch_size": 16, "steps": 60, "evaluate_every": 20, "learning_rate": 0.03},
}
Make = Callable[..., EventBatch]


def made(name: str, tasks: tuple[str, ...] = TASKS) -> tuple[Aggregator, Head]:
    """A head whose every weight is random."""
    config = Config.model_validate({"personalizer": name, **SECTIONS})
    aggregator = new_aggregator(config, DIM, (LENGTH, LLM_DIM))
    torch.manual_seed(5)
    head = new_head(config, DIM, LLM_DIM, torch.randn(LENGTH, LLM_DIM), 0.5, True)
    head.bind(aggregator)
    with torch.no_grad():
        for weight in head.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        head.learn_tasks(tasks)
        if head.instructions:
            torch.nn.init.normal_(head.instructions.vectors, std=0.5)
    return aggregator, head.eval()


def states_of(aggregator: Aggregator, events: EventBatch, users: int) -> StateBatch:
    """Built states; tapper's rows stay at zero."""
    return aggregator.update(StateBatch.empty(users, aggregator.spec), events)


def test_numbers_and_vectors() -> None:
    instructions = Instructions(TASKS, LENGTH, LLM_DIM)
    numbers = instructions.numbers(["rating", None, "headline", "unheard of"])
    assert (numbers.tolist(), numbers.dtype) == ([1, -1, 0, -1], torch.int64)
    assert not instructions(numbers).any(), "they start at zero"
    with torch.no_grad():
        instructions.vectors.copy_(torch.randn_like(instructions.vectors))
    found = instructions(numbers)
    assert found.shape == (4, LENGTH, LLM_DIM)
    assert torch.equal(found[0], instructions.vectors[1])
    assert not found[1].any()
    found.sum().backward()
    assert instructions.vectors.grad is not None


@pytest.mark.parametrize("name", KINDS)
def test_the_contract_adds_the_instruction(name: str, random_events: Make) -> None:
    aggregator, head = made(name)
    assert head.instructions
    state = {k: torch.from_numpy(x) for k, x in states_of(aggregator, random_events(40, 3), 3).head_inputs(aggregator.spec).items()}
    query, now = torch.randn(3, DIM), torch.full((3,), NOW)
    plain = head(query, now, state)
    assert torch.equal(head(query, now, state, torch.full((3,), -1)), plain)
    task = torch.tensor([1, -1, 0])
    wanted = plain + head.rms * head.gain * head.instructions(task)
    torch.testing.assert_close(head(query, now, state, task), wanted)
    torch.testing.assert_close(head.neutral_prefix(task), head.neutral_prefix() + head.rms * head.gain * head.instructions(task))


@pytest.mark.parametrize("name", KINDS)
def test_heads_and_aggregators_come_back(name: str, tmp_path: Path) -> None:
    aggregator, head = made(name)
    adapter = QueryAdapter(DIM)
    aggregator.settle(head, adapter, {"fingerprint": "f" * 64, "model": "m"})
    for folder, (_, files) in {"a": pack_aggregator(aggregator, "", trained=True), "h": pack_head(head, adapter, "a", {}, {})}.items():
        (tmp_path / folder).mkdir()
        for file, data in files.items():
            (tmp_path / folder / file).write_bytes(data)
    again, _, configuration = load_head(tmp_path / "h")
    assert again.instructions
    assert again.instructions.tasks == TASKS == tuple(configuration["tasks"])
    assert pack_head(again, adapter, "a", {}, {})[0] == pack_head(head, adapter, "a", {}, {})[0]
    loaded = load_aggregator(tmp_path / "a")
    if isinstance(loaded, TapperBank):
        assert loaded.head
        assert loaded.head.instructions
        assert torch.equal(loaded.head.instructions.vectors, head.instructions.vectors)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", KINDS)
def test_a_head_without_tasks_is_as_before(name: str) -> None:
    _, head = made(name, ())
    assert head.instructions is None
    assert "tasks" not in head.configuration()
    assert not any("instructions" in key for key in head.state_dict())
    torch.manual_seed(0)
    head.learn_tasks(TASKS)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(0))), "no random number was drawn"


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_exported_graphs_ask_for_a_task_where_there_are_tasks(name: str, static: bool, random_events: Make) -> None:
    aggregator, head = made(name)
    states = states_of(aggregator, random_events(60, 3), 3)
    feeds = {**states.head_inputs(aggregator.spec), "now": np.full(3, NOW)}
    if not static:
        feeds["query"] = np.random.default_rng(0).standard_normal((3, DIM)).astype(np.float32)
    columns = [column.name for column in aggregator.spec.columns if column.head]
    before = [*([] if static else ["query"]), "now"]
    for tasks, beside in ((TASKS, ["task"]), ((), [])):
        if not tasks:
            head.learn_tasks(())
        graph = onnxruntime.InferenceSession(export_head(head, aggregator.spec, DIM, static=static), providers=["CPUExecutionProvider"])
        assert [x.name for x in graph.get_inputs()] == [*before, *beside, *columns]
        for task in (-1, *range(len(tasks))):
            asked = {"task": np.array([task, -1, task])} if tasks else {}
            found = graph.run(["prefix"], {**feeds, **asked})[0]
            inputs = {k: torch.from_numpy(x) for k, x in {**feeds, **asked}.items()}
            with torch.no_grad():
                wanted = head(inputs.get("query"), inputs["now"], {k: inputs[k] for k in columns}, inputs.get("task")).numpy()
            assert np.abs(found - wanted).max() <= 1e-4 * np.sqrt(np.mean(wanted**2))


@pytest.fixture(scope="module")
def two_tasks() -> Examples:
    """Twelve users who are asked the same texts twice a day: one task wants one of two words, by the user, the other one of two others."""
    users, days = 12, 12
    rng = np.random.default_rng(0)
    user, day = np.repeat(np.arange(users), 2 * days), np.tile(np.repeat(np.arange(days), 2), users)
    task = np.tile([0, 1], users * days)
    ts = 1_700_000_000 // DAY * DAY + day * DAY + rng.integers(0, DAY // 2, len(user))
    order = np.lexsort((ts, user))
    user, day, task, ts = user[order], day[order], task[order], ts[order]
    text, answer = rng.integers(0, 4, len(user)), 2 * task + user % 2
    asked = np.flatnonzero(day > 0)
    vectors = rng.standard_normal((8, DIM)).astype(np.float16)
    return examples_of(vectors, user, ts, text, answer, asked, ("politics", "music", "bread", "street"), TASKS, task)


@pytest.fixture(scope="module")
def llm(tiny_llms: Callable[[str], FrozenLLM]) -> FrozenLLM:
    return tiny_llms("llama")


@pytest.fixture(scope="module", params=list(KINDS))
def trained(request: pytest.FixtureRequest, two_tasks: Examples, llm: FrozenLLM) -> tuple[Config, Trained]:
    config = Config.model_validate({"personalizer": request.param, **SECTIONS})
    return config, train(two_tasks, llm, config)


def test_one_training_learns_two_tasks_that_contradict_each_other(
    two_tasks: Examples, llm: FrozenLLM, trained: tuple[Config, Trained]
) -> None:
    """The same texts of the same users: only the instruction tells which answer is asked for."""
    config, found = trained
    assert found.head.instructions
    assert found.head.instructions.tasks == TASKS
    held_out = np.argsort(two_tasks.now, kind="stable")[-found.metrics["held_out"] :]
    model = Model(found.aggregator, found.adapter, found.head, config.train).to(llm.device)
    loss = {
        name: evaluate(model, llm, replace(two_tasks, task=task), held_out, config.seed)["loss"]["right"]
        for name, task in (("own", two_tasks.task), ("none", np.full(len(two_tasks), -1)), ("other", 1 - two_tasks.task))
    }
    model.cpu().eval()
    assert loss["own"] < loss["none"] - 0.1
    assert loss["own"] < loss["other"] - 0.3


def test_figures_are_told_for_each_task(two_tasks: Examples, trained: tuple[Config, Trained]) -> None:
    metrics = trained[1].metrics
    held_out = np.argsort(two_tasks.now, kind="stable")[-metrics["held_out"] :]
    counts = [int((two_tasks.task[held_out] == number).sum()) for number in range(len(TASKS))]
    assert min(counts) > 0
    assert set(metrics["tasks"]) == set(TASKS)
    for figure in ("loss", "accuracy"):
        for arm, whole in metrics[figure].items():
            each = [metrics["tasks"][task][figure][arm] for task in TASKS]
            assert np.average(each, weights=counts) == pytest.approx(whole, abs=1e-5)


def test_a_row_is_fitted_with_the_task_of_each_event(tiny_llms: Callable[[str], FrozenLLM], random_events: Make) -> None:
    """Its own instruction and its own prompt: another task's give another row, and events without one the plain row."""
    llm = tiny_llms("bert2bert")
    config = Config.model_validate({"personalizer": "tapper", **SECTIONS})
    bank = new_aggregator(config, DIM, (2, llm.dim))
    assert isinstance(bank, TapperBank)
    neutral, frozen = llm.neutral_prefix(2)
    head = new_head(config, DIM, llm.dim, neutral, 0.2, frozen)
    head.learn_tasks(TASKS)
    assert head.instructions
    torch.nn.init.normal_(head.instructions.vectors, std=1.0)
    bank.settle(head.eval(), QueryAdapter(DIM), llm.describe())
    bank.requires_grad_(False)
    bank.attach(llm)
    events = replace(random_events(4, 1), texts=["the old town"] * 4, targets=["politics"] * 4)

    def row(*tasks: str | None, **prompts: str) -> np.ndarray:
        bank.llm = FrozenLLM(llm.model, llm.tokenizer, LLMConfig(**{**llm.config.model_dump(), "prompts": prompts}))
        asked = replace(events, tasks=list(tasks) or None)
        return bank.update(StateBatch.empty(1, bank.spec), asked).columns["user_row"][0]

    plain, rating = row(), row(*["rating"] * 4)
    np.testing.assert_array_equal(row(*[None] * 4), plain)
    np.testing.assert_array_equal(row(*["unheard of"] * 4, rating="{text} stars:"), plain)
    rows = [plain, rating, row(*["headline"] * 4), row("rating", "headline", "rating", None), row(*["rating"] * 4, rating="{text} stars:")]
    for i, one in enumerate(rows):
        assert all(np.abs(one - other).max() > 1e-4 for other in rows[i + 1 :])


def test_prompts_of_tasks_belong_to_the_llm(llm: FrozenLLM) -> None:
    """They are in its fingerprint and its description; an LLM without them is called what it was."""
    config = llm.config.model_copy(update={"prompts": {"rating": "{text} stars:"}})
    other = FrozenLLM(llm.model, llm.tokenizer, config)
    assert other.fingerprint != llm.fingerprint
    assert other.describe()["prompts"] == {"rating": "{text} stars:"}
    assert "prompts" not in llm.describe()
