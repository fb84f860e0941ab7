"""Real conflicts of Lance are told apart from everything else that can go wrong."""

import errno
import os
from collections.abc import Callable
from datetime import timedelta

import lance
import pyarrow as pa
import pytest
from lance.optimize import Compaction

from schemas.errors import ConflictError, HomeError
from store import upkeep
from store.conflicts import missing, replaced, rival
from store.home import Home
from store.purge import fence
from store.tables import Tables

SCHEMA = pa.schema([pa.field("key", pa.int64(), nullable=False)])


@pytest.fixture
def tables(home: Home) -> Tables:
    for part in (range(10), range(10, 20), range(20, 30)):
        add(home.tables, *part)
    return home.tables


def add(tables: Tables, *keys: int) -> None:
    tables.append("t", SCHEMA, iter(pa.table({"key": list(keys)}, SCHEMA).to_batches()), tables.mark("t", SCHEMA))


def opened(tables: Tables) -> lance.LanceDataset:
    dataset = tables.open("t")
    assert dataset is not None
    return dataset


def compaction_over_deletion(tables: Tables) -> None:
    dataset = opened(tables)
    done = [task.execute(dataset) for task in Compaction.plan(dataset, options={}).tasks]  # type: ignore[typeddict-item]
    opened(tables).delete("key = 1")
    Compaction.commit(dataset, done)


def deletion_over_compaction(tables: Tables) -> None:
    dataset = opened(tables)
    opened(tables).optimize.compact_files()
    dataset.delete("key = 1", conflict_retries=0)


def append_over_fence(tables: Tables) -> None:
    dataset = opened(tables)
    written = lance.fragment.write_fragments(pa.table({"key": [99]}, SCHEMA), dataset, mode="append")
    fence(tables, "t")
    lance.LanceDataset.commit(dataset.uri, lance.LanceOperation.Append(written), read_version=dataset.version)


def merge_over_append(tables: Tables) -> None:
    dataset = opened(tables)
    add(tables, 99)
    same = lance.LanceOperation.Merge([f.metadata for f in dataset.get_fragments()], dataset.lance_schema)
    lance.LanceDataset.commit(dataset.uri, same, read_version=dataset.version, max_retries=0)


def index_over_index(tables: Tables) -> None:
    dataset = opened(tables)
    opened(tables).create_scalar_index("key", "BTREE")
    dataset.create_scalar_index("key", "BTREE")


def overwritten(tables: Tables) -> None:
    dataset = opened(tables)
    lance.write_dataset(pa.table({"key": [1]}, SCHEMA), dataset.uri, mode="overwrite")
    same = lance.LanceOperation.Merge([f.metadata for f in dataset.get_fragments()], dataset.lance_schema)
    lance.LanceDataset.commit(dataset.uri, same, read_version=dataset.version, max_retries=0)


@pytest.mark.parametrize(
    "act", [compaction_over_deletion, deletion_over_compaction, append_over_fence, merge_over_append, index_over_index, overwritten]
)
def test_another_commit_was_first(tables: Tables, act: Callable[[Tables], None]) -> None:
    with pytest.raises(OSError, match=r".") as told:
        act(tables)
    assert rival(told.value)
    assert not missing(told.value)


def test_files_that_were_cleaned_away(tables: Tables) -> None:
    old = opened(tables)
    old.optimize.compact_files()
    opened(tables).cleanup_old_versions(older_than=timedelta(0))
    with pytest.raises(ValueError, match="not found") as version:
        lance.dataset(old.uri, version=1)
    assert replaced(version.value)
    early = tables.open("t")
    assert early is not None
    add(tables, 40)
    opened(tables).optimize.compact_files()
    opened(tables).cleanup_old_versions(older_than=timedelta(0))
    with pytest.raises(OSError, match=r".") as file:
        early.delete("key = 1")
    assert missing(file.value)
    assert not replaced(file.value)
    assert not rival(version.value)
    assert not rival(file.value)


def test_a_store_that_does_not_answer_is_no_conflict(home: Home) -> None:
    options = {"aws_endpoint": "http://127.0.0.1:9", "allow_http": "true", "client_max_retries": "1", "client_retry_timeout": "1"}
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "aws_region": "us-east-1"}
    with pytest.raises(ValueError, match="retry_timeout") as told:
        lance.dataset("s3://bucket/t.lance", storage_options={**options, **keys})
    assert not rival(told.value)
    assert not missing(told.value)
    assert not rival(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))


def test_upkeep_tells_which_it_was(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = opened(tables)
    opened(tables).optimize.compact_files()
    monkeypatch.setattr(tables, "open", lambda name: dataset)
    rows = dataset.scanner(columns=[], with_row_id=True).to_table().column("_rowid").to_numpy()
    with pytest.raises(ConflictError, match="another writer"):
        upkeep.delete_rows(tables, "t", dataset, rows[:1])

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(lance.LanceDataset, "delete", full)
    with pytest.raises(HomeError, match="Too many open files"):
        upkeep.delete_rows(tables, "t", dataset, rows[:1])
