"""The arms: every way of answering that the benchmark compares, each from histories as a nightly store holds them.

States are built by ``update`` and read back in a bundle's types, so that quality is that of the bytes which serving has.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks import retrieval
from benchmarks.bench import Bench
from benchmarks.metrics import label_index, rouge, score_errors
from benchmarks.variants import ABLATED, COMPARED, HISTORY, Budget, ablated, arm_config, variant
from encoders.examples import DAY, Examples, Ints
from encoders.llm import FrozenLLM
from encoders.personalizer import Aggregator, EventBatch
from encoders.training import Trained, train
from schemas.errors import LeakError
from schemas.states import StateBatch
from store.packing import Precision, bundle_spec, pack

_RETRIEVAL = {"recency": retrieval.latest, "bm25": retrieval.bm25}
PROMPTED = ("none", *_RETRIEVAL)
REFERENCE = ("own-majority", "last-label", "llm-times-prior")
ARMS = ("none", *COMPARED, "recency", "bm25", *REFERENCE, *ABLATED, "oppu")
#: Examples judged at a time, and answers written out per split for the writing tasks.
BATCH, WRITTEN = 64, 300
#: Latest events that a user's row is fitted from, histories of its examples included.
ROW_HISTORY = 160


@dataclass(frozen=True)
class Outcome:
    """What one arm made of some examples; arrays in the order of ``event``."""

    event: Ints
    user: Ints
    history: Ints
    columns: dict[str, npt.NDArray[np.float64]]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """For ``np.savez``."""
        return {"event": self.event, "user": self.user, "history": self.history, **self.columns}


def states_of(arm: str) -> Precision:
    """How a bundle holds the states that an arm reads."""
    return "int8" if arm.endswith("-int8") else "float16"


Prefixes = Callable[[Ints], torch.Tensor]


def judge(bench: Bench, llm: FrozenLLM, rows: Ints, prefixes: Prefixes, prompts: list[str] | None = None) -> Outcome:
    """Loss and answers of the examples ``rows`` under ``prefixes``, greedy."""
    examples, kind = bench.examples, bench.task.kind
    asked = [examples.prompts[i] for i in rows] if prompts is None else prompts
    golds = [examples.targets[i] for i in rows]
    # Rows are in the order of users: the answers that are written out are of all of them.
    written = np.zeros(len(rows), bool)
    written[np.random.default_rng(0).permutation(len(rows))[: WRITTEN if kind == "text" else None]] = True
    losses, answers = [], []
    for start in range(0, len(rows), BATCH):
        part = slice(start, start + BATCH)
        with torch.no_grad():
            prefix = prefixes(rows[part])
            losses.append(llm.loss(prefix, asked[part], golds[part])[0])
            if len(mine := np.flatnonzero(written[part])):
                answers += llm.generate(prefix[mine], [asked[part][i] for i in mine])
    columns = {"nll": torch.cat(losses).double().cpu().numpy()}
    if kind != "text":
        # An answer is right however the tokenizer spaces it.
        known = bench.labels or sorted(set(examples.targets))
        spelled = dict(zip(llm.written(known), known, strict=True))
        answers = [spelled.get(answer, answer) for answer in answers]
    if kind == "label":
        columns.update(found=label_index(answers, bench.labels), gold=label_index(golds, bench.labels))
        columns["accuracy"] = (columns["found"] == columns["gold"]).astype(np.float64)
    elif kind == "rating":
        error = score_errors(answers, golds)
        columns.update(mae=np.abs(error), squared=np.square(error))
    else:
        for name, scores in rouge(answers, [golds[i] for i in np.flatnonzero(written)]).items():
            columns[name] = np.full(len(golds), np.nan)
            columns[name][written] = scores
    return Outcome(bench.event[rows], examples.user[rows], stops_of(examples, rows) - examples.first[rows], columns)


def stops_of(examples: Examples, rows: Ints, lag: int = 0) -> Ints:
    """Where the history of each example ends, as the last night before it knew it, or one ``lag`` nights earlier."""
    return examples.stops(rows, examples.cut(rows, lag))


def refuse_leaks(examples: Examples, rows: Ints, own: Ints, *, live: bool = False) -> None:
    """Look at histories as an arm would get them, from outside.

    Args:
        own: the event that each example asks about.
        live: whether histories may hold what was known the second before, not the night before.

    Raises:
        LeakError: a history holds something not known before it was cut, or the very event that is asked.
    """
    known = dict(zip(examples.key.tolist(), examples.known.tolist(), strict=True))
    for row in rows:
        keys = examples.histories(np.array([row]), size=HISTORY).key.tolist()
        cut = int(examples.now[row]) if live else int(examples.now[row]) // DAY * DAY
        late = [key for key in keys if known[key] >= cut]
        if late or int(examples.key[own[row]]) in keys:
            raise LeakError(
                f"the history of example {row} holds {len(late) or 'its own event,'} {'events of its own day or later' if late else ''}",
                where="benchmark",
                mend="cut histories at the last night before the query",
            )


def prompted(bench: Bench, arm: str, rows: Ints) -> list[str]:
    """Prompts of ``none``, ``recency`` and ``bm25``: up to four items of the history before the query, the best nearest to it."""
    examples, prompts = bench.examples, []
    for row in rows:
        first, stop = examples.first[row], stops_of(examples, np.array([row]))[0]
        held = np.arange(max(first, stop - HISTORY), stop)
        shown = held[_RETRIEVAL[arm](bench.items[held].tolist(), examples.prompts[row])] if arm in _RETRIEVAL else held[:0]
        prompts.append("".join(bench.items[shown]) + examples.prompts[row])
    return prompts


def learn(bench: Bench, llm: FrozenLLM, arm: str, seed: int, budget: Budget) -> Trained:
    """Train an arm on its training examples."""
    examples = variant(arm, bench.examples, seed)
    config = arm_config(arm, seed, budget)
    started, step = time.monotonic(), 0

    def progress(done: int, figures: dict[str, Any]) -> None:
        nonlocal step
        step += done
        if step % 25 == 0:
            print(f"{arm} {seed} step {step} {figures['loss']:.3f} {time.monotonic() - started:.0f}s", file=sys.stderr, flush=True)

    own = examples.take(bench.rows(seed, "train"))
    trained = train(own, llm, config, progress, aggregator=ablated(arm, config, own))
    trained.aggregator.settle(trained.head, trained.adapter, llm.describe())
    if trained.aggregator.needs_llm:
        trained.aggregator.attach(llm)
    return trained


def served(bench: Bench, trained: Trained, arm: str, seed: int, lag: int, rows: Ints) -> Prefixes:
    """Prefixes from a bundle's bytes for the examples ``rows``, each with the state of its last night, or one ``lag`` nights older."""
    examples, aggregator = variant(arm, bench.examples, seed), trained.aggregator
    learned = _rows(bench, trained, rows, lag) if aggregator.needs_llm else None
    device = next(trained.head.parameters()).device

    def prefixes(batch: Ints) -> torch.Tensor:
        events = examples.histories(batch, lag_nights=lag, size=HISTORY)
        state = aggregator.update(StateBatch.empty(len(batch), aggregator.spec), events)
        if learned is not None:
            state = StateBatch({**state.columns, "user_row": np.stack([learned[u] for u in examples.user[batch]])}, state.offsets)
        inputs = bundled(state, aggregator, states_of(arm))
        query = torch.from_numpy(examples.vectors[examples.query[batch]]).to(device).float()
        prefix: torch.Tensor = trained.head(trained.adapter(query), torch.from_numpy(examples.now[batch]).to(device), inputs)
        return prefix

    return prefixes


def bundled(state: StateBatch, aggregator: Aggregator, states: Precision) -> dict[str, torch.Tensor]:
    """The head's inputs from states in a bundle's types."""
    spec = bundle_spec(aggregator.spec, states)
    kept = pack(state, spec)
    return {name: torch.from_numpy(x) for name, x in kept.head_inputs(spec).items()}


def _rows(bench: Bench, trained: Trained, rows: Ints, lag: int) -> dict[int, npt.NDArray[np.float32]]:
    """``P_u`` of the users of ``rows``, as the night before each user's first judged example fits it, or one ``lag`` nights older."""
    examples, aggregator = bench.examples, trained.aggregator
    early = rows[np.argsort(examples.now[rows], kind="stable")]
    users, place = np.unique(examples.user[early], return_index=True)
    stops = stops_of(examples, early[place], lag)
    starts = np.maximum(examples.first[early[place]], stops - ROW_HISTORY)
    found: dict[int, npt.NDArray[np.float32]] = {}
    for start in range(0, len(users), 16):
        some = slice(start, start + 16)
        events = np.concatenate([np.arange(a, b) for a, b in zip(starts[some], stops[some], strict=True)])
        owner = np.repeat(np.arange(len(users[some])), stops[some] - starts[some])
        batch = with_texts(bench, examples.events(events, owner), events)
        state = aggregator.update(StateBatch.empty(len(users[some]), aggregator.spec), batch)
        found.update(zip(users[some].tolist(), state.columns["user_row"], strict=True))
    return found


def with_texts(bench: Bench, batch: EventBatch, events: Ints) -> EventBatch:
    """The batch with the texts that tapper's rows are fitted through, as much of them as prompts hold."""
    texts = [text[: bench.task.characters] for text in bench.texts[events]]
    return replace(batch, texts=texts, targets=bench.targets[events].tolist())


def references(bench: Bench, arm: str, rows: Ints) -> Outcome:
    """``own-majority`` and ``last-label``: guesses from the user's own labels at the last night; label tasks only."""
    examples, found = bench.examples, []
    for row in rows:
        first, stop = examples.first[row], stops_of(examples, np.array([row]))[0]
        past = [label for label in bench.targets[first:stop] if label is not None]
        if not past:
            found.append("")
        elif arm == "last-label":
            found.append(past[-1])
        else:
            counts = Counter(past)
            found.append(max(reversed(past), key=lambda label: counts[label]))
    golds = label_index([examples.targets[i] for i in rows], bench.labels)
    guessed = label_index(found, bench.labels)
    columns = {"found": guessed, "gold": golds, "accuracy": (guessed == golds).astype(np.float64)}
    return Outcome(bench.event[rows], examples.user[rows], stops_of(examples, rows) - examples.first[rows], columns)


def times_prior(bench: Bench, llm: FrozenLLM, rows: Ints, weight: float = 5.0) -> Outcome:
    """``llm-times-prior``: the LLM's probability of each label, without a prefix, times how much likelier the user makes it than everyone.

    The user's shares of labels at the last night are smoothed by ``weight`` labels drawn as everyone's lessons have them.
    """
    examples, labels = bench.examples, bench.labels
    said = [len(llm.tokenizer(label, add_special_tokens=False)["input_ids"]) for label in labels]
    # With the end, and as the loss cuts it.
    lengths = np.minimum(said, llm.config.max_target_tokens - 1) + 1
    lessons = np.bincount(label_index(bench.lessons.targets, labels).clip(min=0), minlength=len(labels)) + 1.0
    everyone = lessons / lessons.sum()
    found = []
    for row in rows:
        past = label_index(
            [t for t in bench.targets[examples.first[row] : stops_of(examples, np.array([row]))[0]] if t is not None], labels
        )
        own = (np.bincount(past, minlength=len(labels)) + weight * everyone) / (len(past) + weight)
        with torch.no_grad():
            loss = llm.loss(torch.zeros(len(labels), 0, llm.dim), [examples.prompts[row]] * len(labels), labels)[0].double().cpu().numpy()
        found.append(int(np.argmax(-loss * lengths + np.log(own / everyone))))
    golds = label_index([examples.targets[i] for i in rows], labels)
    guessed = np.array(found, np.int64)
    columns = {"found": guessed, "gold": golds, "accuracy": (guessed == golds).astype(np.float64)}
    return Outcome(bench.event[rows], examples.user[rows], stops_of(examples, rows) - examples.first[rows], columns)
