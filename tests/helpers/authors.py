"""A small bench of news: authors with a category of their own."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench import Bench, build
from benchmarks.tasks import TASKS
from encoders.examples import DAY
from encoders.text import TextEncoder
from schemas.config import EncoderConfig, LLMConfig

USERS, DAYS = 12, 40


def articles(
    place: Path, tiny_encoder: Path, headline: Callable[[str, int], str], wrote: Callable[[str, int], bool] = lambda *_: True
) -> Bench:
    """Articles of authors, one on each day that ``wrote`` has them write, each author with a category of his own, and forty by nobody."""
    rows = [
        {"user": f"author{u}", "ts": 1_500_000_000 // DAY * DAY + day * DAY, "category": ["CRIME", "SPORTS", "TRAVEL"][u % 3]}
        for u in range(USERS)
        for day in range(DAYS)
    ]
    rows += [{"user": "", "ts": 1_500_000_000 // DAY * DAY + d * DAY, "category": "CRIME"} for d in range(DAYS)]
    rows = [row for row in rows if wrote(str(row["user"]), row["ts"] // DAY)]
    for row in rows:
        row.update(headline=headline(row["user"], row["ts"] // DAY), text="x", date="")
    with gzip.open(place / "huffpost_news.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    encoder = TextEncoder(EncoderConfig(model=str(tiny_encoder), max_tokens=16))
    return build(TASKS[0], place, place / "cache", encoder, LLMConfig())
