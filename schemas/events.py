"""Events: what a user did, as it is stored, and the rows that could not become one.

An event is unique on ``(user_id, event_id, revision)``; the latest revision counts. ``ts`` is when it
happened (event time), ``known_at`` when it could first be known (knowledge time); both are UTC.
"""

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")

#: Columns a source may fill. ``user_id``, ``ts`` and ``text`` are required (a delete needs no ``ts`` and no ``text``); ``task`` names
#: what the text asks for, where one home holds several kinds of questions.
FIELDS = ("user_id", "event_id", "ts", "known_at", "text", "target", "value", "task", "op")
REQUIRED = ("user_id", "ts", "text")

PUT, DELETE = "put", "delete"

EVENTS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("revision", pa.int32(), nullable=False),
        pa.field("op", pa.string(), nullable=False),
        pa.field("ts", TIMESTAMP),
        pa.field("known_at", TIMESTAMP, nullable=False),
        pa.field("text", pa.string()),
        pa.field("target", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("task", pa.string()),
        pa.field("user_key", pa.int64(), nullable=False),
        pa.field("event_key", pa.int64(), nullable=False),
        pa.field("content_key", pa.int64(), nullable=False),
        pa.field("text_key", pa.int64()),
        pa.field("target_key", pa.int64()),
        pa.field("ingest", pa.int64(), nullable=False),
    ]
)

#: One row per input row that could not become an event, with the reason: nothing is dropped silently.
REJECTS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("line", pa.int64()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("raw", pa.string()),
        pa.field("reject_key", pa.int64(), nullable=False),
        pa.field("ingest", pa.int64(), nullable=False),
    ]
)

#: Limits of a well-formed row; a row beyond one is rejected and says which.
MAX_ID_BYTES = 512
MAX_TEXT_BYTES = 1 << 20
MAX_TASK_BYTES = 64
MAX_RAW_BYTES = 1 << 16
#: Tasks of one head and its bundles.
MAX_TASKS = 64
