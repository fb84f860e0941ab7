"""The benchmark's tasks: what they are called, how they are scored, and how real files become events.

A loader takes a file, or a folder, and gives its rows; ``Task.events`` leaves of them what the benchmark reads.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import polars as pl

from encoders.examples import DAY
from pipelines.sources.lamp import LampSource
from schemas.errors import InputError, NotFoundError

Kind = Literal["label", "rating", "text"]


@dataclass(frozen=True)
class Task:
    """One task on one data set.

    Attributes:
        data: the data set, as the file's name has it.
        file: its file or folder in the directory of the data sets.
        load: that file to events: ``user_id, event_id, ts, known`` (seconds)``, text, target, value``, and where the data says itself what
            is to be judged, ``judged``.
        kind: how answers are scored.
        tuning_tenths: tenths of the users with enough examples that tune the LLM instead.
        per_user: the test is the last part of each user's own time.
        examples: of a split of the test, at most.
        characters: of a text, that the LLM reads; they are its first.
    """

    name: str
    data: str
    file: str
    load: Callable[[Path], pl.DataFrame]
    kind: Kind
    tuning_tenths: int = 3
    per_user: bool = False
    examples: int = 1_000
    characters: int = 100

    def events(self, directory: Path) -> pl.DataFrame:
        """The columns of ``load``, times int64, one row an event.

        Raises:
            NotFoundError: the file is not in ``directory``.
            InputError: it does not hold what such files hold.
        """
        file = _there(directory / self.file)
        try:
            rows = self.load(file).with_columns(pl.col("ts", "known").cast(pl.Int64), pl.col("text").str.slice(0, 1_000))
        except pl.exceptions.PolarsError as error:
            said = str(error).splitlines()[0]
            raise InputError(
                f"{self.file} is not as {self.name} reads it: {said}", where=str(directory), mend="see benchmarks/tasks.py"
            ) from error
        names = ["user_id", "event_id", "ts", "known", "text", "target", "value", *(["judged"] if "judged" in rows.columns else [])]
        return rows.select(names).unique(["user_id", "event_id"], keep="first")


def _there(path: Path) -> Path:
    if not path.exists():
        raise NotFoundError(f"{path.name} is not there", where=str(path.parent), mend=f"put it there, or --data DIR with {path.name}")
    return path


def _news(file: Path) -> pl.DataFrame:
    rows = pl.read_ndjson(file.read_bytes(), infer_schema_length=None).with_row_index("line")
    return rows.with_columns(
        # Articles without a byline are nobody's history: a user each.
        user_id=pl.when(pl.col("user") == "").then(pl.format("nobody-{}", "line")).otherwise("user"),
        event_id=pl.col("line").cast(pl.String).str.zfill(8),
        known=pl.col("ts"),
        value=pl.lit(None, pl.Float64),
    )


def news_category(file: Path) -> pl.DataFrame:
    """Headline to category."""
    return _news(file).with_columns(text=pl.col("headline"), target=pl.col("category").str.to_lowercase())


def news_headline(file: Path) -> pl.DataFrame:
    """Description to headline."""
    return _news(file).with_columns(target=pl.col("headline")).filter(pl.col("text").str.len_chars() > 20)


def ratings(folder: Path) -> pl.DataFrame:
    """Film, as title and genres, to rating."""
    films = pl.read_csv(_there(folder / "movies.csv")).with_columns(
        text=pl.format("{} ({})", "title", pl.col("genres").str.replace_all("|", ", ", literal=True))
    )
    rows = pl.read_csv(_there(folder / "ratings.csv")).join(films.select("movieId", "text"), on="movieId")
    return rows.with_columns(
        user_id=pl.col("userId").cast(pl.String),
        event_id=pl.col("movieId").cast(pl.String),
        ts=pl.col("timestamp"),
        known=pl.col("timestamp"),
        value=pl.col("rating"),
        target=pl.col("rating").map_elements(lambda x: f"{x:g}", pl.String),
    )


def _commits(file: Path) -> pl.DataFrame:
    rows = pl.read_ndjson(file.read_bytes(), infer_schema_length=None)
    return rows.with_columns(
        user_id=pl.col("user"),
        event_id=pl.col("sha"),
        known=pl.col("commit_ts"),
        value=pl.lit(None, pl.Float64),
        bare=pl.col("subject").map_elements(lambda s: re.sub(r"^[^\s:]{1,40}:\s+", "", s), pl.String),
    )


def commit_area(file: Path) -> pl.DataFrame:
    """Subject without its prefix to the directory that the commit touches."""
    rows = _commits(file)
    common = rows.sort("known").head(int(len(rows) * 0.6)).group_by("top_dir").len().filter(pl.col("len") >= 50)["top_dir"]
    area = pl.when(pl.col("top_dir").is_in(common.implode())).then("top_dir").otherwise(pl.lit("other"))
    rows = rows.filter(pl.col("bare").str.len_chars() > 0)
    return rows.with_columns(text=pl.col("bare"), target=area.str.replace_all(r"[()]", "").str.to_lowercase())


def commit_subject(file: Path) -> pl.DataFrame:
    """Body to subject, both without names of areas."""
    rows = _commits(file).filter(pl.col("body").str.len_chars() > 20)
    return rows.with_columns(text=pl.col("body"), target=pl.col("bare"))


#: Where LaMP's instruction ends and the text of a question begins.
_MARKS = {"2": "description:", "2N": "article:", "2M": "description:", "3": "review:", "4": "article:", "5": "paper:"}


def lamp(folder: Path, task: str) -> pl.DataFrame:
    """LaMP's own files, ``LaMP_<task>/{train,dev}_{questions,outputs}.json``: profile items are the past, the questions are judged.

    A question comes the day after the last item of its profile, and its text is what follows the task's instruction, as items have it.
    Users are questions where the files name no user.

    Raises:
        InputError: no question has an answer.
    """
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
                _, marked, text = question["input"].partition(_MARKS[task])
                row = {"user_id": user, "event_id": f"question-{number}", "text": text.strip() if marked else question["input"]}
                rows.append({**row, "target": golds.get(number)})
    if not golds or not rows:
        mend = "put train_questions.json and train_outputs.json there, or those of dev"
        raise InputError("no question has an answer: LaMP keeps those of its test", where=str(folder), mend=mend)
    asked = pl.DataFrame(rows).join(last, on="user_id").drop_nulls("target").with_columns(value=None, judged=True)
    names = ["user_id", "event_id", "ts", "text", "target", "value", "judged"]
    events = pl.concat([items.select(names), asked.with_columns(pl.col("value").cast(pl.Float64)).select(names)])
    return events.with_columns(known=pl.col("ts"))


TASKS = [
    Task("news-category", "huffpost", "huffpost_news.jsonl.gz", news_category, "label"),
    Task("rating", "movielens", "movielens_latest_small", ratings, "rating", per_user=True, examples=2_500),
    Task("commit-area", "git", "commits_git.jsonl.gz", commit_area, "label"),
    Task("commit-area", "curl", "commits_curl.jsonl.gz", commit_area, "label"),
    Task("news-headline", "huffpost", "huffpost_news.jsonl.gz", news_headline, "text"),
    Task("commit-subject", "git", "commits_git.jsonl.gz", commit_subject, "text"),
    Task("commit-subject", "curl", "commits_curl.jsonl.gz", commit_subject, "text"),
]
#: LaMP's own, for whoever has the files; only run when named.
_KINDS: dict[str, Kind] = {"2": "label", "2N": "label", "2M": "label", "3": "rating", "4": "text", "5": "text"}
LAMP = [Task(f"LaMP-{name}", "lamp", f"LaMP_{name}", partial(lamp, task=name), kind, characters=400) for name, kind in _KINDS.items()]


def tasks_in(directory: Path) -> list[Task]:
    """The tasks whose files ``directory`` holds: the benchmark's own, the same on other data in the same form (``NAME_news.jsonl.gz``,
    ``NAME_latest_small/``, ``commits_NAME.jsonl.gz``), and LaMP's."""
    found = {(task.name, task.data): task for task in TASKS}
    for task in TASKS:
        before, after = task.file.split(task.data)
        for path in sorted(directory.glob(f"{before}*{after}")):
            data = path.name.removeprefix(before).removesuffix(after)
            if data:
                found.setdefault((task.name, data), replace(task, data=data, file=path.name))
    return [task for task in (*found.values(), *LAMP) if (directory / task.file).exists()]


def choose(directory: Path, names: Sequence[str], data: str = "") -> list[Task]:
    """Tasks by name, on each of their data sets or on ``data`` alone; all but LaMP's where none is named.

    Raises:
        NotFoundError: ``directory`` has nothing of the kind; says what it has, and what would be looked for.
    """
    there = tasks_in(directory)
    chosen = [task for task in there if (task.name in names if names else task not in LAMP) and data in ("", task.data)]
    absent = sorted(set(names) - {task.name for task in chosen})
    if absent or not chosen:
        what = " or ".join(absent) or "task but LaMP's, which have to be named,"
        files = sorted({task.file for task in (*TASKS, *LAMP) if task.name in absent and not data})
        raise NotFoundError(
            f"there is no {what}{f' of {data}' if data else ''}; there is {_told(there)}",
            where=str(directory),
            mend=f"--data DIR with {', '.join(files)}"
            if files
            else "--task and --source as they are there, or --data with another directory",
        )
    return chosen


def _told(tasks: Sequence[Task]) -> str:
    return ", ".join(f"{task.name} ({task.data})" for task in tasks) or "nothing"
