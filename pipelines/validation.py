"""Validation: raw rows in, events and rejects out. Every row becomes one of the two.

Faults are found column by column over a whole batch; a row with several faults is one reject that names them all.
"""

from datetime import datetime, timedelta

import polars as pl

from pipelines import keys
from pipelines.keys import text_key
from pipelines.sources import RawBatch
from schemas.events import DELETE, FIELDS, MAX_ID_BYTES, MAX_RAW_BYTES, MAX_TASK_BYTES, MAX_TEXT_BYTES, PUT

__all__ = ["instants", "text_key", "validate"]

_TIME = pl.Datetime("us", "UTC")
_DAY = 86_400_000_000
#: ISO 8601: a date, perhaps a time of day, perhaps an offset.
_ISO = (
    r"^([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?"
    r"\s?(?:Z|z|UTC|([+-])([0-9]{2}):?([0-9]{2})?)?)?$"
)
_COLUMNS = ["user_id", "event_id", "op", "ts", "known_at", "text", "target", "value", "task",
            "user_key", "event_key", "content_key", "text_key", "target_key", "ingest", "line", "known_given"]  # fmt: skip


def validate(batch: RawBatch, *, now: datetime, historical: bool, run: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events and rejects of a batch; together as many as it has rows.

    Args:
        now: the time of ingest, with its time zone: the ``known_at`` of rows that have none.
        historical: such rows get their ``ts`` instead (a first load).
        run: the ``ingest`` number of both frames.

    Returns:
        Events with the columns of ``schemas.events.EVENTS`` but ``revision``, and ``line`` (Int64) and ``known_given``
        (Boolean: ``known_at`` came from the source). Rejects with the columns of ``schemas.events.REJECTS`` but
        ``reject_key``.
    """
    given = batch.rows
    raw = {name: given[name] if name in given.columns else pl.Series(name, [None] * len(given)) for name in FIELDS}
    read = pl.DataFrame(
        {
            "user_id": _text(raw["user_id"], whole=True).str.strip_chars(),
            "event_id": _text(raw["event_id"], whole=True).str.strip_chars(),
            "op": _text(raw["op"]).str.strip_chars(),
            "ts": instants(raw["ts"]),
            "known_at": instants(raw["known_at"]),
            "text": _text(raw["text"]),
            "target": _text(raw["target"]),
            "value": _number(raw["value"]),
            "task": _text(raw["task"], whole=True).str.strip_chars(),
            "line": given["line"],
            "ts_given": _given(raw["ts"]),
            "known_given": _given(raw["known_at"]),
            "value_given": _given(raw["value"]),
        }
    ).with_columns(pl.when(pl.col(name) != "").then(pl.col(name)).alias(name) for name in ("user_id", "event_id", "target", "task"))
    read = read.with_columns(pl.when(pl.col("op") != "").then(pl.col("op")).otherwise(pl.lit(PUT)).alias("op"))
    read = read.with_columns(_faults(now).alias("reason"))
    good = read["reason"] == ""
    rejects = pl.concat(
        [batch.unreadable.select("line", "reason", "raw"), _rejected(given.filter(~good), read.filter(~good)["reason"])]
    ).select(pl.lit(batch.source).alias("source"), "line", "reason", "raw", pl.lit(run, pl.Int64()).alias("ingest"))
    return _events(read.filter(good), now, historical, run), _cut(rejects)


def instants(column: pl.Series) -> pl.Series:
    """Times of any kind as Datetime("us", "UTC"); null where there is none, or none that can be read.

    Numbers (and texts that are numbers) count since 1970, in seconds below 1e11, milliseconds below 1e14, microseconds
    below 1e17, else nanoseconds: told apart row by row, for any date from 1973 on in each unit. Whole numbers are
    exact. Texts are ISO 8601, a time without an offset is UTC. Nothing else is guessed.
    """
    dtype = column.dtype
    if isinstance(dtype, pl.Datetime):
        # Naive times count as UTC; aware ones are stored as UTC already.
        return _scaled(column, *{"ms": (1000, 1), "us": (1, 1), "ns": (1, 1000)}[dtype.time_unit])
    if dtype == pl.Date:
        return _scaled(column, _DAY, 1)
    if dtype.is_integer():
        return _clipped(_whole(column.cast(pl.Int128())))
    if dtype.is_float():
        return _clipped(_fraction(column.cast(pl.Float64())))
    if not (dtype == pl.String or dtype.is_decimal()):
        return pl.Series(column.name, [None] * len(column), dtype=_TIME)
    text = column.cast(pl.String()).str.strip_chars()
    whole = text.cast(pl.Int128(), strict=False)
    micros = _whole(whole)
    if micros.null_count() > text.null_count():
        micros = micros.zip_with(micros.is_not_null(), _fraction(text.cast(pl.Float64(), strict=False)))
    if micros.null_count() > text.null_count():
        micros = micros.zip_with(micros.is_not_null(), _iso(text))
    return _clipped(micros)


def _whole(number: pl.Series) -> pl.Series:
    """Int128 microseconds of whole numbers in their own units."""
    x, size = pl.col("x"), pl.col("x").abs()
    micros = (
        pl.when(size < 10**11).then(x * 1_000_000)
        .when(size < 10**14).then(x * 1_000)
        .when(size < 10**17).then(x)
        .otherwise(x // 1_000)
    )  # fmt: skip
    # An outlandish size is clipped first, lest it overflow into a plausible date.
    return number.alias("x").clip(-(10**25), 10**25).to_frame().select(micros.cast(pl.Int128())).to_series()


def _fraction(number: pl.Series) -> pl.Series:
    """Int128 microseconds of floats in their own units; null for NaN and infinities."""
    x, size = pl.col("x"), pl.col("x").abs()
    micros = (
        pl.when(~x.is_finite()).then(None)
        .when(size < 1e11).then(x * 1e6)
        .when(size < 1e14).then(x * 1e3)
        .when(size < 1e17).then(x)
        .otherwise(x / 1e3)
    )  # fmt: skip
    return number.alias("x").to_frame().select(micros.clip(-4e18, 4e18).round().cast(pl.Int128())).to_series()


def _iso(text: pl.Series) -> pl.Series:
    """Int128 microseconds of ISO 8601 texts; null for any other."""
    parts = text.str.extract_groups(_ISO).struct.unnest()
    parts.columns = ["date", "hour", "minute", "second", "fraction", "sign", "off_hour", "off_minute"]
    count = {n: pl.col(n).cast(pl.Int64()).fill_null(0) for n in ("hour", "minute", "second", "off_hour", "off_minute")}
    offset = count["off_hour"] * 60 + count["off_minute"]
    day = pl.col("date").str.to_date("%Y-%m-%d", strict=False).to_physical().cast(pl.Int64())
    minutes = count["hour"] * 60 + count["minute"] - pl.when(pl.col("sign") == "-").then(-offset).otherwise(offset)
    fraction = pl.col("fraction").fill_null("").str.pad_end(6, "0").str.slice(0, 6).cast(pl.Int64())
    micros = day * _DAY + (minutes * 60 + count["second"]) * 1_000_000 + fraction
    real = (count["hour"] < 24) & (count["minute"] < 60) & (count["second"] < 60)
    real &= (count["off_hour"] < 24) & (count["off_minute"] < 60)
    return parts.select(pl.when(real).then(micros).cast(pl.Int128())).to_series()


def _scaled(column: pl.Series, times: int, over: int) -> pl.Series:
    """Stored counts of some unit as times, exactly."""
    x = pl.col("x").to_physical().cast(pl.Int128()) * times // over
    return _clipped(column.alias("x").to_frame().select(x.cast(pl.Int128())).to_series())


def _clipped(micros: pl.Series) -> pl.Series:
    """Int128 microseconds as times; those beyond the range of a time as its ends, which no event can have."""
    return micros.clip(-(10**18), 10**18).cast(pl.Int64()).cast(_TIME)


def _text(column: pl.Series, *, whole: bool = False) -> pl.Series:
    """Any column as String; NaN is null. With ``whole``, the float 12.0 is ``12``, as ids are meant."""
    if column.dtype.is_float():
        column = column.fill_nan(None)
        if whole:
            integer = column.cast(pl.Int128(), strict=False)
            return integer.cast(pl.String()).zip_with((column == integer).fill_null(False), column.cast(pl.String()))
    return column.cast(pl.String())


def _number(column: pl.Series) -> pl.Series:
    """Any column as Float64; null where it is none, NaN included."""
    if column.dtype == pl.String:
        column = column.str.strip_chars()
    if not (column.dtype == pl.String or column.dtype.is_numeric() or column.dtype == pl.Boolean):
        return pl.Series(column.name, [None] * len(column), dtype=pl.Float64())
    number = column.cast(pl.Float64(), strict=False)
    return number.zip_with(number.is_finite().fill_null(False), pl.Series([None], dtype=pl.Float64()))


def _given(column: pl.Series) -> pl.Series:
    """Which rows have something there, readable or not."""
    if column.dtype == pl.String:
        return column.is_not_null() & (column.str.strip_chars() != "").fill_null(False)
    return column.is_not_null()


def _faults(now: datetime) -> pl.Expr:
    """All that is wrong with a row, joined by ``; ``; empty when nothing is."""
    put, ts, known = pl.col("op") == PUT, pl.col("ts"), pl.col("known_at")
    zero, latest = pl.lit(0).cast(_TIME), pl.lit(now + timedelta(days=1)).cast(_TIME)
    checks = {
        "op is neither put nor delete": ~pl.col("op").is_in([PUT, DELETE]),
        "user_id is missing": pl.col("user_id").is_null(),
        f"user_id is longer than {MAX_ID_BYTES} bytes": pl.col("user_id").str.len_bytes() > MAX_ID_BYTES,
        "event_id is missing: a delete must name its event": (pl.col("op") == DELETE) & pl.col("event_id").is_null(),
        f"event_id is longer than {MAX_ID_BYTES} bytes": pl.col("event_id").str.len_bytes() > MAX_ID_BYTES,
        "ts is missing": put & ~pl.col("ts_given"),
        "unreadable ts": pl.col("ts_given") & ts.is_null(),
        "ts is not after 1970-01-01": ts <= zero,
        "ts is in the future": ts > latest,
        "unreadable known_at": pl.col("known_given") & known.is_null(),
        "known_at is not after 1970-01-01": known <= zero,
        "known_at is in the future": known > latest,
        "text is missing": put & (pl.col("text").str.strip_chars() == "").fill_null(True),
        f"text is longer than {MAX_TEXT_BYTES} bytes": put & (pl.col("text").str.len_bytes() > MAX_TEXT_BYTES),
        "unreadable value": pl.col("value_given") & pl.col("value").is_null(),
        f"task is longer than {MAX_TASK_BYTES} bytes": put & (pl.col("task").str.len_bytes() > MAX_TASK_BYTES),
    }
    reasons = [pl.when(check).then(pl.lit(reason)) for reason, check in checks.items()]
    return pl.concat_str(reasons, separator="; ", ignore_nulls=True)


def _events(good: pl.DataFrame, now: datetime, historical: bool, run: int) -> pl.DataFrame:
    user, event, op, ts = map(pl.col, ("user_id", "event_id", "op", "ts"))
    said = [pl.col(name) for name in ("text", "target", "value", "task")]
    known = pl.coalesce(["known_at", *(["ts"] if historical else []), pl.lit(now).cast(_TIME)])
    # A delete says only which event is gone: content it may carry is not part of it.
    content = [pl.when(op == PUT).then(column) for column in said]
    named = good.with_columns(*content, known.alias("known_at")).with_columns(
        pl.coalesce([event, keys.derived_event_id(user, ts, *said)]).alias("event_id")
    )
    keyed = named.with_columns(
        keys.user_key(user).alias("user_key"),
        keys.event_key(user, event).alias("event_key"),
        keys.content_key(op, ts, *said).alias("content_key"),
        text_key(pl.col("text")).alias("text_key"),
        text_key(pl.col("target")).alias("target_key"),
        pl.lit(run, pl.Int64()).alias("ingest"),
    )
    return keyed.select(_COLUMNS)


def _rejected(rows: pl.DataFrame, reasons: pl.Series) -> pl.DataFrame:
    fields = [name for name in FIELDS if name in rows.columns]
    raw = pl.struct(fields).struct.json_encode() if fields else pl.lit("{}")
    if "task" in fields and len(fields) > 1:
        # Without one, as before there were tasks: a reject is known by what stands here.
        plain = pl.struct([name for name in fields if name != "task"]).struct.json_encode()
        blank = (pl.col("task").cast(pl.String).str.strip_chars() == "").fill_null(True)
        raw = pl.when(blank).then(plain).otherwise(raw)
    return rows.select("line", reasons.alias("reason"), raw.alias("raw"))


def _cut(rejects: pl.DataFrame) -> pl.DataFrame:
    """``raw`` within its limit, cut between two characters."""
    long = (rejects["raw"].str.len_bytes() > MAX_RAW_BYTES).fill_null(False)
    if not long.any():
        return rejects
    raw = [text.encode()[:MAX_RAW_BYTES].decode("utf-8", "ignore") if cut else text
           for text, cut in zip(rejects["raw"].to_list(), long.to_list(), strict=True)]  # fmt: skip
    return rejects.with_columns(pl.Series("raw", raw, dtype=pl.String()))
