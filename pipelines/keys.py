"""Keys of events as Polars expressions: equal content, equal key, in every run and on every machine.

``user_key`` is the contract of ``schemas.keys``; the others are xxh3 of unambiguously joined fields, read as int64.
"""

import polars as pl
import polars_hash as plh


def user_key(user_id: pl.Expr) -> pl.Expr:
    """Int64: as ``schemas.keys.user_key``, for a String column."""
    head = plh.concat_str(user_id).chash.sha2_256().str.slice(0, 16)
    return head.str.decode("hex").bin.reinterpret(dtype=pl.Int64(), endianness="big")


def event_key(user_id: pl.Expr, event_id: pl.Expr) -> pl.Expr:
    """Int64: key of one event over all its revisions."""
    return text_key(_joined(user_id, event_id))


def content_key(op: pl.Expr, ts: pl.Expr, text: pl.Expr, target: pl.Expr, value: pl.Expr, task: pl.Expr) -> pl.Expr:
    """Int64: what an event says. Not when it was known: hearing of it again is no correction."""
    return text_key(_joined(op, _count(ts), text, target, _bits(value)) + _named(task))


def text_key(text: pl.Expr) -> pl.Expr:
    """Int64: key of a String column; null stays null. Texts, targets and rendered texts share it."""
    return plh.concat_str(text).nchash.xxh3_64().reinterpret(signed=True)


def derived_event_id(user_id: pl.Expr, ts: pl.Expr, text: pl.Expr, target: pl.Expr, value: pl.Expr, task: pl.Expr) -> pl.Expr:
    """String ``h-`` and 32 hex digits: the id of an event that came without one."""
    digest = plh.concat_str(_joined(user_id, _count(ts), text, target, _bits(value)) + _named(task)).chash.sha2_256()
    return pl.lit("h-") + digest.str.slice(0, 32)


def _joined(*parts: pl.Expr) -> pl.Expr:
    """Each part behind its length in bytes (``~`` for null), so that no two rows join to the same string."""
    pieces: list[pl.Expr] = []
    for part in parts:
        length = part.str.len_bytes().cast(pl.String())
        pieces += [length.fill_null("~"), pl.lit(":"), part.fill_null("")]
    return pl.concat_str(pieces)


def _named(task: pl.Expr) -> pl.Expr:
    """A part more where there is a task, nothing where there is none: events from before there were tasks keep their keys."""
    return pl.when(task.is_not_null()).then(_joined(task)).otherwise(pl.lit(""))


def _count(ts: pl.Expr) -> pl.Expr:
    return ts.to_physical().cast(pl.String())


def _bits(value: pl.Expr) -> pl.Expr:
    """The exact float: its digits depend on who prints it, its bits do not. Minus zero is zero."""
    plain = pl.when(value == 0.0).then(0.0).otherwise(value)
    return plain.reinterpret(dtype=pl.Int64()).cast(pl.String())
