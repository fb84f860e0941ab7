"""Training examples from the event log: what each query's user had done, as a nightly store knew it."""

import numpy as np
import numpy.typing as npt
import polars as pl

from encoders.examples import DAY, Examples
from encoders.prompts import render
from encoders.tuning import Lessons
from pipelines.plan import shards_by
from pipelines.update import seconds
from schemas.config import Config
from schemas.errors import InputError
from schemas.events import MAX_TASKS
from store.embeddings import Embeddings
from store.events import EventLog

#: Events read for training, about; of a larger home, those of randomly chosen ranges of users.
MAX_EVENTS = 500_000
#: Share of users, in tenths, whose events tune the LLM when it is made from the home, and train no head.
TUNING_TENTHS = 3
#: Characters of a text that the LLM could ever read.
MAX_CHARACTERS = 1_000
#: Earlier events a tuning prompt shows at most, and how far back they are drawn from.
SHOWN, REACH = 2, 16

COLUMNS = ("user_id", "user_key", "event_key", "ts", "known_at", "text", "target", "value", "task", "text_key", "target_key")


def read_events(log: EventLog, config: Config, until: int) -> pl.DataFrame:
    """Current events of all users, or of a seeded sample of users, sorted by (user, known): ``COLUMNS`` as ints where they are times.

    Raises:
        InputError: there are none.
    """
    shards = shards_by(log, "user_key", after=0, until=until, size=log.home.config.refresh.shard_events)
    order = np.random.default_rng(config.seed).permutation(len(shards))
    frames, held = [], 0
    for index in order:
        if held >= MAX_EVENTS:
            break
        shard = shards[index]
        frames.append(log.current(COLUMNS, after=0, until=until, low=shard.low, high=shard.high))
        held += len(frames[-1])
    if not held:
        raise InputError("no events to train on", where=log.home.uri, mend="tapstate ingest table FILE…")
    events = pl.concat(frames)
    events = events.with_columns(pl.Series("ts", seconds(events["ts"])), pl.Series("known", seconds(events["known_at"])))
    # An event cannot be known before it happened, whatever the source's clocks say.
    return events.with_columns(known=pl.max_horizontal("known", "ts")).sort("user_key", "user_id", "known", "event_key")


def build_examples(events: pl.DataFrame, cache: Embeddings, config: Config) -> Examples:
    """Examples among ``events`` (from ``read_events``): queries whose user had a history at the last nightly cut.

    An event with a target asks for it, given its text. Where no event has one, the text itself is to be written, from an empty
    prompt and a masked query.

    Raises:
        InputError: no event has a history, or there are too many tasks.
    """
    asked = events["target"].is_not_null()
    writing = not asked.any()
    user = events["user_id"].rle_id().cast(pl.Int64).to_numpy()
    ts, known = events["ts"].to_numpy(), events["known"].to_numpy()
    first = np.searchsorted(user, user, side="left")
    last = np.searchsorted(user, user, side="right")
    # One sorted key for (user, known), so that every history's end is found at once.
    span = int(known.max() - min(int(known.min()), int(ts.min()))) + 2 * DAY
    start = min(int(known.min()), int(ts.min())) - DAY
    stop = np.searchsorted(user * span + (known - start), user * span + (ts // DAY * DAY - start), side="left")
    usable = np.flatnonzero((stop > first) & (np.ones(len(user), bool) if writing else asked.to_numpy()))
    if len(usable) < 10:
        raise InputError(
            f"only {len(usable)} events come a night or more after their user's first; training needs 10",
            mend="ingest a longer history (tapstate ingest table FILE… --historical for a first load)",
        )
    if len(usable) > config.train.max_examples:
        usable = np.sort(np.random.default_rng(config.seed).choice(usable, config.train.max_examples, replace=False))
    tasks, task = _tasks(events, usable)
    keys = np.unique(np.concatenate([events["text_key"].to_numpy(), events["target_key"].drop_nulls().to_numpy()]))
    text = np.searchsorted(keys, events["text_key"].to_numpy())
    given = events["target_key"].is_not_null().to_numpy()
    target = np.where(given, np.searchsorted(keys, events["target_key"].fill_null(0).to_numpy()), -1)
    chosen = events[usable]
    texts = chosen["text"].str.slice(0, MAX_CHARACTERS).to_list()
    prompts = [render(config.llm.prompt_of(task), text) for task, text in zip(chosen["task"], texts, strict=True)]
    return Examples(
        vectors=cache.read(keys),
        known=known,
        ts=ts,
        key=events["event_key"].to_numpy(),
        text=text,
        target=target,
        value=events["value"].cast(pl.Float32).fill_null(float("nan")).to_numpy(),
        tasks=tasks,
        event_task=task,
        first=first[usable],
        last=last[usable],
        user=user[usable],
        now=ts[usable],
        query=np.full(len(usable), -1) if writing else text[usable],
        answer=text[usable] if writing else target[usable],
        task=task[usable],
        prompts=[""] * len(usable) if writing else prompts,
        targets=texts if writing else chosen["target"].to_list(),
    )


def _tasks(events: pl.DataFrame, usable: npt.NDArray[np.int64]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Names of the tasks that the events ``usable`` ask for, sorted, and the place of each event's among them, -1 for none of them."""
    tasks = events["task"][usable].drop_nulls().unique().sort().to_list()
    if len(tasks) > MAX_TASKS:
        raise InputError(
            f"{len(tasks):,} tasks in the events ({', '.join(tasks[:3])}, …), more than {MAX_TASKS}: a task is a kind of question",
            mend="tapstate ingest table FILE… --map task=COLUMN, of another column, into a new home",
        )
    places = {name: place for place, name in enumerate(tasks)}
    return tasks, events["task"].replace_strict(places, default=-1, return_dtype=pl.Int64).to_numpy()


def tuning_pairs(events: pl.DataFrame, cache: Embeddings, config: Config) -> Lessons:
    """What to tune an LLM on: of the tuning users, before the time that heads are judged on.

    A third of the prompts show up to ``SHOWN`` earlier events of the user, those most like the query among the last ``REACH``; in another
    third, the told ones, the query itself is shown with some other event's target, which is then the answer. An LLM that never had to
    make use of what it was told cannot be steered by a prefix either (measured: not even by a learned table of the answers).
    """
    mine = events.filter(tuning_users())
    pool = mine if len(mine) >= 100 else events
    pool = pool.filter(pl.col("ts") <= events["ts"].quantile(1 - config.train.held_out, "lower"))
    if not events["target"].is_not_null().any():
        return Lessons([""] * len(pool), pool["text"].str.slice(0, MAX_CHARACTERS).to_list(), np.zeros(len(pool), bool))
    pool = pool.filter(pl.col("target").is_not_null())
    rng = np.random.default_rng(config.seed)
    if len(pool) > config.train.max_examples:
        pool = pool.slice(int(rng.integers(0, len(pool) - config.train.max_examples + 1)), config.train.max_examples)
    texts, targets = pool["text"].str.slice(0, MAX_CHARACTERS).to_list(), pool["target"].to_list()
    answers = list(targets)
    items = np.array([render(config.llm.item, text, target) for text, target in zip(texts, targets, strict=True)], object)
    asked = zip(pool["task"], texts, strict=True)
    prompts = np.array([render(config.llm.prompt_of(task), text) for task, text in asked], object)
    vectors, user = cache.read(pool["text_key"].to_numpy()), pool["user_id"].rle_id().to_numpy()
    similar = _similar(vectors, user, pool["known"].to_numpy(), pool["ts"].to_numpy())
    kind = rng.integers(0, 3, len(pool))
    shown = rng.integers(1, SHOWN + 1, len(pool)) * (kind == 1)
    for place in range(SHOWN):
        row = similar[:, place]
        fits = (place < shown) & (row >= 0)
        prompts[fits] = items[row[fits]] + prompts[fits]
    told = rng.permutation(len(pool))
    for i in np.flatnonzero(kind == 2):
        targets[i] = answers[told[i]]
        prompts[i] = render(config.llm.item, texts[i], targets[i]) + prompts[i]
    return Lessons(prompts.tolist(), targets, kind == 2)


def _similar(
    vectors: npt.NDArray[np.float16], user: npt.NDArray[np.int64], known: npt.NDArray[np.int64], ts: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """For each row the ``SHOWN`` rows most like it among the ``REACH`` before it of the same user, best first; -1 where there is none.

    Rows before it that were not known by its own time are none: it may itself have become known late.
    """
    found = np.empty((len(user), SHOWN), np.int64)
    back = np.arange(1, REACH + 1)
    for start in range(0, len(user), 2_048):
        rows = np.arange(start, min(start + 2_048, len(user)))
        before = rows[:, None] - back
        inside, before = before >= 0, np.maximum(before, 0)
        there = inside & (user[before] == user[rows][:, None]) & (known[before] < ts[rows][:, None])
        likeness = np.einsum("rd,rbd->rb", vectors[rows], vectors[before], dtype=np.float32)
        best = np.argsort(np.where(there, -likeness, np.inf), axis=1, kind="stable")[:, :SHOWN]
        found[rows] = np.where(np.take_along_axis(there, best, 1), np.take_along_axis(before, best, 1), -1)
    return found


def tuning_users() -> pl.Expr:
    """Rows of the users whose events tune an LLM made from the home."""
    return (pl.col("user_key") % 10).abs() < TUNING_TENTHS
