"""A task ready to be learned: which users and events tune the LLM, train the arms, and judge them.

Users outside the test tune the frozen LLM: those with fewer than 10 examples and three in ten of the others.
The rest are cut by key into three folds; seed s holds out fold s mod 3 as *new* users, so that three seeds see everyone new once.
Test examples are the latest 30 %, and everything is learned from examples before them; where users come and go in one burst they are the
latest of each user's own, and only the same user's training examples are surely before them.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks import retrieval
from benchmarks.controls import of_strangers
from benchmarks.tasks import Task
from encoders.examples import DAY, Examples, Ints
from encoders.prompts import render
from encoders.text import TextEncoder
from encoders.tuning import Lessons
from schemas.config import LLMConfig
from schemas.errors import InputError
from schemas.keys import content_hash, user_hash

#: Examples a user needs to take part in the test.
MIN_EXAMPLES = 10
TEST_SHARE = 0.3
#: Characters the LLM reads of an item shown in a prompt.
ITEM_CHARACTERS = 50
#: Items among which a tuning prompt's are looked for.
REACH = 64
#: Of the tuning prompts: plain ones, ones with items of the user, ones with items that tell the answer, ones that say nothing else.
MIX = (0.35, 0.35, 0.15, 0.15)
#: The tuning pairs a task makes at most.
MAX_LESSONS = 20_000
#: Test examples of one user in a split, at most: without it a maintainer's would be half of a repository's.
MAX_OF_USER = 100


@dataclass(frozen=True, eq=False)
class Bench:
    """A task ready to be learned: ``examples`` of the users that take part, and who they are.

    Attributes:
        fold: int64 ``[n]``, the fold of each example's user.
        test: bool ``[n]``, examples of the test period.
        labels: every label, for label tasks.
        lessons: what the frozen LLM is tuned on.
        items, texts, targets: each event as an item of a prompt, its text, and its target or None; parallel to ``examples.ts``.
        event: int64 ``[n]``, each example's own event.
    """

    task: Task
    examples: Examples
    fold: Ints
    test: npt.NDArray[np.bool_]
    labels: list[str]
    lessons: Lessons
    items: npt.NDArray[np.object_]
    texts: npt.NDArray[np.object_]
    targets: npt.NDArray[np.object_]
    event: Ints

    @cached_property
    def content(self) -> str:
        """Hash of all that an arm is trained and judged on, events and their vectors included."""
        examples = self.examples
        told = ["\x00".join(map(str, each)) for each in (self.texts, self.targets, self.items, examples.prompts, self.labels)]
        arrays = (
            examples.vectors,
            examples.known,
            examples.ts,
            examples.value,
            examples.user,
            examples.now,
            examples.first,
            examples.last,
            self.event,
            self.fold,
            self.test,
        )
        return content_hash(*told, *(np.ascontiguousarray(x).tobytes() for x in arrays))

    def rows(self, seed: int, split: Literal["train", "known", "new"], most: int | None = None) -> Ints:
        """Examples of one split; of a test at most ``MAX_OF_USER`` a user and ``most`` in all, drawn with a fixed seed.

        Known users have an example in training: of the draw, those of users who came later are left out.
        """
        new = self.fold == seed % 3
        training = np.flatnonzero(~new & ~self.test)
        if split == "train":
            return training
        rows = np.random.default_rng(0).permutation(np.flatnonzero((new if split == "new" else ~new) & self.test))
        order = np.argsort(self.examples.user[rows], kind="stable")
        mine = self.examples.user[rows][order]
        rows = rows[np.sort(order[np.arange(len(rows)) - np.searchsorted(mine, mine) < MAX_OF_USER])]
        rows = np.sort(rows[:most])
        return rows if split == "new" else rows[np.isin(self.examples.user[rows], self.examples.user[training])]


def build(task: Task, data: Path, cache: Path, encoder: TextEncoder, llm: LLMConfig) -> Bench:
    """Load a task.

    Raises:
        NotFoundError: the task's file is not in ``data``.
        InputError: fewer than six users have enough examples, or none is left to tune the LLM on.
    """
    events = task.events(data).with_columns(known=pl.max_horizontal("known", "ts")).sort("user_id", "known", "event_id")
    user = events["user_id"].rle_id().cast(pl.Int64).to_numpy()
    ts, known = events["ts"].to_numpy(), events["known"].to_numpy()
    first, last = np.searchsorted(user, user, side="left"), np.searchsorted(user, user, side="right")
    stop = np.array([a + np.searchsorted(known[a:b], c, side="left") for a, b, c in zip(first, last, ts // DAY * DAY, strict=True)])
    given = events["target"].is_not_null().to_numpy()
    usable = (stop > first) & given
    counts = np.bincount(user, weights=usable)
    digest = np.array([user_hash(name)[0] for name in events["user_id"].unique(maintain_order=True)])
    key = np.abs(digest % 30)[user]
    taking = (counts[user] >= MIN_EXAMPLES) & (key % 10 >= task.tuning_tenths)
    chosen = np.flatnonzero(usable & taking)
    if len(np.unique(user[chosen])) < 6:
        raise InputError(f"{task.name} has fewer than six users with {MIN_EXAMPLES} examples", where=str(data), mend="more data")
    if "judged" in events.columns:
        test, until = events["judged"].to_numpy()[chosen], int(ts.max()) + 1
    else:
        test, until = _test(user[chosen], ts[chosen], task.per_user)
    texts = events["text"].to_numpy().astype(object)
    targets = events["target"].fill_null("").to_numpy().astype(object)
    names, code = np.unique(np.concatenate([texts, targets]), return_inverse=True)
    items = np.array([render(llm.item, a[:ITEM_CHARACTERS], b) for a, b in zip(texts, targets, strict=True)], object)
    prompts = [render(llm.prompt, text[: task.characters]) for text in texts]
    tuning = np.flatnonzero(given & ~taking & (ts < until))
    if not len(tuning):
        raise InputError(f"{task.name} has no example outside the test to tune the LLM on", where=str(data), mend="more users")
    examples = Examples(
        vectors=vectors(names.tolist(), encoder, cache),
        known=known,
        ts=ts,
        key=events.select(pl.struct("user_id", "event_id").hash(seed=0)).to_series().reinterpret(signed=True).to_numpy(),
        text=code[: len(texts)],
        target=np.where(given, code[len(texts) :], -1),
        value=events["value"].cast(pl.Float32).fill_null(float("nan")).to_numpy(),
        tasks=(),
        event_task=np.full(len(texts), -1),
        first=first[chosen],
        last=last[chosen],
        user=user[chosen],
        now=ts[chosen],
        query=code[: len(texts)][chosen],
        answer=code[len(texts) :][chosen],
        task=np.full(len(chosen), -1),
        prompts=[prompts[i] for i in chosen],
        targets=targets[chosen].tolist(),
    )
    labels = sorted(set(targets[given])) if task.kind == "label" else []
    answers = targets.copy()
    answers[~given] = None
    lessons = _lessons(tuning, prompts, targets, items, texts, first, stop, llm)
    return Bench(task, examples, np.abs(digest // 30 % 3)[user[chosen]], test, labels, lessons, items, texts, answers, chosen)


def vectors(texts: list[str], encoder: TextEncoder, cache: Path) -> npt.NDArray[np.float16]:
    """Unit vectors of texts, kept in ``cache`` under the hash of encoder and texts."""
    name = hashlib.sha256("\x00".join([encoder.fingerprint, *texts]).encode()).hexdigest()[:16]
    path = cache / f"vectors-{name}.npy"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npy")
        np.save(part, encoder.encode(texts))
        part.replace(path)
    found: npt.NDArray[np.float16] = np.load(path)
    return found


def _test(user: Ints, ts: Ints, per_user: bool) -> tuple[npt.NDArray[np.bool_], int]:
    """Which examples are of the test period, and before when the LLM's lessons must lie."""
    if not per_user:
        cut = int(np.quantile(ts, 1 - TEST_SHARE, method="lower")) // DAY * DAY
        return ts >= cut, cut
    test = np.zeros(len(ts), bool)
    for one in np.unique(user):
        mine = np.flatnonzero(user == one)
        test[mine] = ts[mine] >= np.quantile(ts[mine], 1 - TEST_SHARE, method="higher")
    return test, int(ts.max()) + 1


def _lessons(
    rows: Ints,
    prompts: list[str],
    targets: npt.NDArray[np.object_],
    items: npt.NDArray[np.object_],
    texts: npt.NDArray[np.object_],
    first: Ints,
    stop: Ints,
    llm: LLMConfig,
) -> Lessons:
    """What the LLM is tuned on: plain prompts, and prompts behind one to four items of the user as the prompt arms choose them.

    The others tell a target drawn at random, which is then the answer (pipelines/examples.py says why): among items of the user, with
    the query's text or none, or alone before the query, which is what a prefix says most easily and what an LLM learns to heed first.

    Args:
        rows: the events that may be asked.
        first, stop: where each event's history begins and ends, as the last night before it knew it.
    """
    rng = np.random.default_rng(0)
    with_history = rows[stop[rows] > first[rows]]
    asked, answers, told = [], [], []
    for _ in range(min(MAX_LESSONS, 4 * len(rows))):
        kind = rng.choice(4, p=MIX)
        row = rng.choice(with_history if kind == 1 and len(with_history) else rows)
        prompt, answer = prompts[row], targets[row]
        held = items[max(first[row], stop[row] - REACH) : stop[row]].tolist()
        choose = (retrieval.latest, retrieval.bm25)[rng.integers(2)]
        shown = [held[i] for i in choose(held, prompt)[-rng.integers(1, retrieval.SHOWN + 1) :]]
        if kind >= 2:
            answer = targets[rng.choice(rows)]
            asker = texts[row][:ITEM_CHARACTERS] if kind == 2 and rng.integers(2) else ""
            shown = shown[1 - retrieval.SHOWN :] if kind == 2 else []
            shown.insert(rng.integers(len(shown) + 1), render(llm.item, asker, answer))
        asked.append("".join(shown if kind else []) + prompt)
        answers.append(answer)
        told.append(kind == 3)
    return Lessons(asked, answers, np.array(told))


def describe(bench: Bench) -> str:
    """Sizes, as JSON; ``strangers_without_history`` is the share of test examples for which a control (seed 0) draws an empty one."""
    examples, test = bench.examples, bench.test
    strange, asked = of_strangers(examples, 0), np.flatnonzero(test)
    empty = strange.stops(asked, strange.cut(asked)) <= strange.first[asked]
    return json.dumps(
        {
            "task": bench.task.name,
            "data": bench.task.data,
            "events": len(examples.ts),
            "examples": len(examples),
            "test": int(test.sum()),
            "users": len(np.unique(examples.user)),
            "test_users": len(np.unique(examples.user[test])),
            "lessons": len(bench.lessons.prompts),
            "labels": len(bench.labels),
            "strangers_without_history": round(float(empty.mean()), 3),
        }
    )
