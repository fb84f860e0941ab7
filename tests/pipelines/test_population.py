"""The generated population is as it says: seeded, skewed, bursty, late, repetitive; a refresh brings its planted interests out again."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipelines.ingest import ingest
from pipelines.refresh import Refresh
from pipelines.sources.population import DAY, LATE, TWICE, PopulationSource
from schemas.config import Config
from store.home import Home
from store.states import States

Night = Callable[..., object]
SOURCE = PopulationSource(users=5_000, daily=20_000, days=5, texts=640)


def rows(source: PopulationSource) -> pl.DataFrame:
    return pl.concat([batch.rows.drop("line") for batch in source.batches()])


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    return rows(SOURCE)


def test_a_day_depends_on_seed_and_number_alone(events: pl.DataFrame) -> None:
    assert_frame_equal(rows(SOURCE), events)
    third = rows(PopulationSource(users=5_000, daily=20_000, days=5, texts=640, first_day=2, last_day=3))
    assert_frame_equal(third, events.filter(pl.col("event_id").str.starts_with("2-")))
    assert not rows(PopulationSource(users=5_000, daily=20_000, days=5, texts=640, seed=1))["user_id"].equals(events["user_id"])


def test_activity_and_texts_are_skewed_and_everybody_appears(events: pl.DataFrame) -> None:
    counts = events["user_id"].value_counts(sort=True)["count"]
    assert len(counts) == 5_000
    assert counts[:50].sum() > 0.1 * len(events), "one user in a hundred"
    assert counts.median() < counts.mean()  # type: ignore[operator]
    texts = events["text"].value_counts(sort=True)["count"]
    assert len(texts) == 640
    assert texts.max() > 2 * texts.min()  # type: ignore[operator]


def test_bursts_late_events_and_repeats(events: pl.DataFrame) -> None:
    assert events.is_duplicated().sum() / 2 == pytest.approx(TWICE * len(events), rel=0.2)
    once = events.unique(maintain_order=True)
    late = (once["known_at"] - once["ts"]).to_numpy()
    assert (late > 0).mean() == pytest.approx(LATE, rel=0.2)
    assert late.min() == 0
    assert np.median(late[late > 0]) > DAY
    gaps = once.sort("user_id", "known_at").select(pl.col("known_at").diff().over("user_id"))["known_at"].drop_nulls()
    scattered = once.with_columns(pl.col("user_id").shuffle(seed=0)).sort("user_id", "known_at")
    chance = scattered.select(pl.col("known_at").diff().over("user_id"))["known_at"].drop_nulls()
    assert (gaps == 60).mean() > 5 * (chance <= 60).mean(), "a minute apart"  # type: ignore[operator]


def test_a_refresh_recovers_the_planted_interests(tmp_path_factory: pytest.TempPathFactory, night: Night) -> None:
    """The real MiniLM: the state nearest to a user's is most often of somebody with the same interest."""
    source = PopulationSource(users=400, daily=4_000, days=3, texts=256)
    home, _ = Home.create(str(tmp_path_factory.mktemp("population") / "home"), Config())
    ingest(home, source, historical=True)
    version = night(home)
    refresh = Refresh(home)
    spec = refresh.aggregator.spec
    table = States(home, version.aggregator, spec).read(version.runs)  # type: ignore[attr-defined]
    users = np.array([int(user[1:]) for user in table.column("user_id").to_pylist()])
    steady = (source.interest(users, 0) == source.interest(users, 2)) & (table.column("event_count").to_numpy() >= 8)
    vectors, interest = spec.vectors(table)[steady].astype(np.float64), source.interest(users, 2)[steady]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -np.inf)
    hit = (interest[alike.argmax(1)] == interest).mean()
    assert steady.sum() > 50
    assert hit > 0.9
