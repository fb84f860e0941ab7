"""The benchmark's tasks: real histories as events, and which users tune the LLM, train the arms, and judge them.

Users outside the test tune the frozen LLM: those with fewer than 10 examples and three in ten of the others.
The rest are cut by key into three folds; seed s holds out fold s mod 3 as *new* users, so that three seeds see everyone new once.
Test examples are the latest 30 % (of all, or of each user's own where users come and go in one burst); everything learned is learned
from examples before them.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks import retrieval
from encoders.examples import DAY, Examples, Ints
from encoders.personalizer import EventBatch
from encoders.prompts import render
from encoders.text import TextEncoder
from encoders.tuning import Lessons
from pipelines.sources.lamp import LampSource
from schemas.config import LLMConfig
from schemas.errors import InputError, NotFoundError
from schemas.keys import user_hash

#: Examples a user needs to take part in the test.
MIN_EXAMPLES = 10
TEST_SHARE = 0.3
#: Characters the LLM reads of a query, and of an item shown in a prompt.
QUERY_CHARACTERS, ITEM_CHARACTERS = 100, 50
#: Items among which a tuning prompt's are looked for.
REACH = 64
#: Of the tuning prompts: plain ones, ones with items of the user, ones with items that tell the answer, ones that say nothing else.
MIX = (0.35, 0.35, 0.15, 0.15)
#: The tuning pairs a task makes at most.
MAX_LESSONS = 20_000
#: Test examples of one user in a split, at most: without it a maintainer's would be half of a repository's.
MAX_OF_USER = 100

Kind = Literal["label", "rating", "text"]


@dataclass(frozen=True)
class Task:
    """One task on one data set.

    Attributes:
        load: directory to events: ``user_id, event_id, ts, known`` (int64 seconds)``, text, target, value``, and where the data says itself
            what is to be judged, ``judged``.
        kind: how answers are scored.
        tuning_tenths: tenths of the users with enough examples that tune the LLM instead.
        per_user: the test is the last part of each user's own time.
    """

    name: str
    data: str
    load: Callable[[Path], pl.DataFrame]
    kind: Kind
    tuning_tenths: int = 0
    per_user: bool = False


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

    def rows(self, seed: int, split: Literal["train", "known", "new"], most: int | None = None) -> Ints:
        """Examples of one split; of a test at most ``MAX_OF_USER`` a user and ``most`` in all, drawn with a fixed seed."""
        new = self.fold == seed % 3
        chosen = {"train": ~new & ~self.test, "known": ~new & self.test, "new": new & self.test}[split]
        rows = np.flatnonzero(chosen)
        if split == "train":
            return rows
        rows = np.random.default_rng(0).permutation(rows)
        order = np.argsort(self.examples.user[rows], kind="stable")
        mine = self.examples.user[rows][order]
        rows = rows[np.sort(order[np.arange(len(rows)) - np.searchsorted(mine, mine) < MAX_OF_USER])]
        return np.sort(rows[:most])


def build(task: Task, data: Path, cache: Path, encoder: TextEncoder, llm: LLMConfig) -> Bench:
    """Load a task.

    Raises:
        NotFoundError: the task's file is not in ``data``.
        InputError: fewer than six users have enough examples.
    """
    events = task.load(data).with_columns(known=pl.max_horizontal("known", "ts")).sort("user_id", "known", "event_id")
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
    prompts = [render(llm.prompt, text[:QUERY_CHARACTERS]) for text in texts]
    tuning = np.flatnonzero(given & ~taking & (ts < until))
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


def _file(directory: Path, name: str) -> Path:
    path = directory / name
    if not path.exists():
        raise NotFoundError(f"{name} is not there", where=str(directory), mend="python -m benchmarks.quality --data DIR")
    return path


def _news(directory: Path) -> pl.DataFrame:
    rows = pl.read_ndjson(_file(directory, "huffpost_news.jsonl.gz").read_bytes(), infer_schema_length=None).with_row_index("line")
    return rows.with_columns(
        # Articles without a byline are nobody's history: a user each.
        user_id=pl.when(pl.col("user") == "").then(pl.format("nobody-{}", "line")).otherwise("user"),
        event_id=pl.col("line").cast(pl.String).str.zfill(8),
        known=pl.col("ts"),
        value=pl.lit(None, pl.Float64),
    )


def news_category(directory: Path) -> pl.DataFrame:
    """Headline to category."""
    return _columns(_news(directory).with_columns(text=pl.col("headline"), target=pl.col("category").str.to_lowercase()))


def news_headline(directory: Path) -> pl.DataFrame:
    """Description to headline."""
    rows = _news(directory).with_columns(target=pl.col("headline")).filter(pl.col("text").str.len_chars() > 20)
    return _columns(rows)


def ratings(directory: Path) -> pl.DataFrame:
    """Film, as title and genres, to rating."""
    folder = _file(directory, "movielens_latest_small")
    films = pl.read_csv(_file(folder, "movies.csv")).with_columns(
        text=pl.format("{} ({})", "title", pl.col("genres").str.replace_all("|", ", ", literal=True))
    )
    rows = pl.read_csv(_file(folder, "ratings.csv")).join(films.select("movieId", "text"), on="movieId")
    return _columns(
        rows.with_columns(
            user_id=pl.col("userId").cast(pl.String),
            event_id=pl.col("movieId").cast(pl.String),
            ts=pl.col("timestamp"),
            known=pl.col("timestamp"),
            value=pl.col("rating"),
            target=pl.col("rating").map_elements(lambda x: f"{x:g}", pl.String),
        )
    )


def _commits(directory: Path, repository: str) -> pl.DataFrame:
    rows = pl.read_ndjson(_file(directory, f"commits_{repository}.jsonl.gz").read_bytes(), infer_schema_length=None)
    return rows.with_columns(
        user_id=pl.col("user"),
        event_id=pl.col("sha"),
        known=pl.col("commit_ts"),
        value=pl.lit(None, pl.Float64),
        bare=pl.col("subject").map_elements(lambda s: re.sub(r"^[^\s:]{1,40}:\s+", "", s), pl.String),
    )


def commit_area(directory: Path, repository: str) -> pl.DataFrame:
    """Subject without its prefix to the directory that the commit touches."""
    rows = _commits(directory, repository)
    common = rows.sort("known").head(int(len(rows) * 0.6)).group_by("top_dir").len().filter(pl.col("len") >= 50)["top_dir"]
    area = pl.when(pl.col("top_dir").is_in(common.implode())).then("top_dir").otherwise(pl.lit("other"))
    rows = rows.filter(pl.col("bare").str.len_chars() > 0)
    return _columns(rows.with_columns(text=pl.col("bare"), target=area.str.replace_all(r"[()]", "").str.to_lowercase()))


def commit_subject(directory: Path, repository: str) -> pl.DataFrame:
    """Body to subject, both without names of areas."""
    rows = _commits(directory, repository).filter(pl.col("body").str.len_chars() > 20)
    return _columns(rows.with_columns(text=pl.col("body"), target=pl.col("bare")))


def lamp(directory: Path, task: str) -> pl.DataFrame:
    """LaMP's own files, ``LaMP_<task>/{train,dev}_{questions,outputs}.json``: profile items are the past, the questions are judged.

    A question comes the day after the last item of its profile. Users are questions where the files name no user.
    """
    folder = _file(directory, f"LaMP_{task}")
    items = pl.concat([batch.rows for batch in LampSource(folder, task).batches()])
    items = items.with_columns(
        ts=pl.col("ts").str.slice(0, 19).str.to_datetime(strict=False).dt.epoch("s"), value=pl.col("value").cast(pl.Float64), judged=False
    ).drop_nulls(["ts", "text"])
    last = items.group_by("user_id").agg(pl.col("ts").max() // DAY * DAY + DAY)
    golds: dict[str, str] = {}
    rows = []
    for split in ("train", "dev"):
        if (folder / f"{split}_outputs.json").is_file():
            golds.update({g["id"]: g["output"] for g in json.loads((folder / f"{split}_outputs.json").read_text())["golds"]})
        if (folder / f"{split}_questions.json").is_file():
            for question in json.loads((folder / f"{split}_questions.json").read_text()):
                user, number = str(question.get("user_id", question["id"])), str(question["id"])
                rows.append({"user_id": user, "event_id": f"question-{number}", "text": question["input"], "target": golds.get(number)})
    asked = pl.DataFrame(rows).join(last, on="user_id").drop_nulls("target").with_columns(value=None, judged=True)
    names = ["user_id", "event_id", "ts", "text", "target", "value", "judged"]
    events = pl.concat([items.select(names), asked.with_columns(pl.col("value").cast(pl.Float64)).select(names)])
    return _columns(events.with_columns(known=pl.col("ts")))


def _columns(rows: pl.DataFrame) -> pl.DataFrame:
    rows = rows.with_columns(pl.col("ts", "known").cast(pl.Int64), pl.col("text").str.slice(0, 1_000))
    names = ["user_id", "event_id", "ts", "known", "text", "target", "value", *(["judged"] if "judged" in rows.columns else [])]
    return rows.select(names).unique(["user_id", "event_id"], keep="first")


TASKS = [
    Task("news-category", "huffpost", news_category, "label", 3),
    Task("rating", "movielens", ratings, "rating", 3, per_user=True),
    Task("commit-area", "git", partial(commit_area, repository="git"), "label", 3),
    Task("commit-area", "curl", partial(commit_area, repository="curl"), "label", 3),
    Task("news-headline", "huffpost", news_headline, "text", 3),
    Task("commit-subject", "git", partial(commit_subject, repository="git"), "text", 3),
    Task("commit-subject", "curl", partial(commit_subject, repository="curl"), "text", 3),
]
#: LaMP's own, for whoever has the files; only run when named.
_KINDS: dict[str, Kind] = {"2": "label", "2N": "label", "2M": "label", "3": "rating", "4": "text", "5": "text"}
LAMP = [Task(f"LaMP-{name}", "lamp", partial(lamp, task=name), kind, 3) for name, kind in _KINDS.items()]


def without_histories(examples: Examples) -> Examples:
    """The same examples with every history empty."""
    return replace(examples, last=examples.first)


def of_strangers(examples: Examples, seed: int) -> Examples:
    """The same examples, each with the history of some example of another user, cut at the example's own night."""
    other = examples.strangers(np.arange(len(examples)), np.random.default_rng(seed))
    return replace(examples, first=examples.first[other], last=examples.last[other])


class Live(Examples):
    """Examples whose histories hold all that was known the second before the query, which no nightly store has."""

    def cut(self, rows: Ints, lag_nights: Ints | int = 0, now: Ints | None = None) -> Ints:
        """The query's own second; such histories have no age."""
        return self.now[rows] if now is None else now


class ShuffledDates(Examples):
    """Examples whose histories keep their events and lose their order: times are permuted within each history."""

    def events(self, events: Ints, user: Ints) -> EventBatch:
        """As ``Examples.events``, with ``ts`` permuted within each user."""
        batch = super().events(events, user)
        scattered = np.random.default_rng(len(events)).random(len(events))
        place, source = np.lexsort((np.arange(len(events)), user)), np.lexsort((scattered, user))
        ts = batch.ts.copy()
        ts[place] = batch.ts[source]
        return replace(batch, ts=ts)


def describe(bench: Bench) -> str:
    """Sizes, as JSON."""
    examples, test = bench.examples, bench.test
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
        }
    )
