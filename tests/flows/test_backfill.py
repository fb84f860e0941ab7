"""The range of days that a backfill takes."""

from datetime import date

import pytest

from flows.backfill import _days
from schemas.errors import ConfigError


@pytest.mark.parametrize(
    ("files", "first", "last", "wrong"),
    [
        ("e/{day}.csv", 2, 1, "the last day, 2024-01-01, is before the first, 2024-01-02"),
        ("e/all.csv", 1, 2, "every day would have the same files"),
        ("e/all.csv", 1, 1, "every day would have the same files"),
        ("e/{day:%Y}.csv", 1, 2, "every day would have the same files"),
        ("e/{date}.csv", 1, 2, "not a name of a day's files"),
        ("e/{}.csv", 1, 2, "not a name of a day's files"),
        ("e/{day", 1, 2, "not a name of a day's files"),
    ],
)
def test_a_range_that_is_none_is_refused(files: str, first: int, last: int, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        _days(files, date(2024, 1, first), date(2024, 1, last))


def test_a_range_names_its_days() -> None:
    found = _days("s3://b/{day:%Y/%m/%d}/*.parquet", date(2024, 2, 28), date(2024, 3, 1))
    assert [name for _, name in found] == [f"s3://b/2024/{day}/*.parquet" for day in ("02/28", "02/29", "03/01")]
