"""The benchmark's tasks: what they are called, how they are scored, and how real files become events."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import polars as pl

from encoders.examples import DAY
from pipelines.sources.lamp import LampSource
from schemas.errors import NotFoundError

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
