"""Ledgers: numbered records without gaps, exactly one writer a number."""

import json
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from schemas.errors import CorruptError, HomeError
from schemas.records import AliasRecord
from store.objects import Objects
from store.records import Ledger


def record(number: int, reason: str = "test") -> AliasRecord:
    return AliasRecord(
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        created_by="me",
        code="0",
        number=number,
        name="a",
        version=number,
        expected=None,
        reason=reason,
    )


def ledger(place: str) -> Ledger[AliasRecord]:
    return Ledger(Objects(place), "aliases/a", AliasRecord)


def test_records_come_back_in_order(place: str) -> None:
    book = ledger(place)
    assert (book.last(), book.all(), book.get(1)) == (0, [], None)
    written = [record(n) for n in range(1, 12)]
    for one in written:
        assert book.append(one.number, one)
    for seen in (book, ledger(place)):
        assert seen.last() == 11
        assert seen.all() == written
        assert seen.range(8, 10) == written[8:10]
        assert seen.range(3, 3) == []


def test_a_number_is_written_once(place: str) -> None:
    assert ledger(place).append(1, record(1, "first"))
    assert not ledger(place).append(1, record(1, "second"))
    found = ledger(place).get(1)
    assert found
    assert found.reason == "first"


def test_racing_writers_number_without_gap(place: str) -> None:
    """Each loser re-reads and takes the next number, as writers of a home do."""

    def write(who: int) -> None:
        book = ledger(place)
        for step in range(3):
            while not book.append(number := book.last() + 1, record(number, f"{who}-{step}")):
                pass

    threads = [threading.Thread(target=write, args=(who,)) for who in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = ledger(place).all()
    assert [r.number for r in found] == list(range(1, 16))
    assert len({r.reason for r in found}) == 15


def test_a_gap_is_corruption(tmp_path: Path) -> None:
    book = ledger(str(tmp_path))
    for number in (1, 2, 3):
        book.append(number, record(number))
    (tmp_path / "aliases/a/2.json").unlink()
    with pytest.raises(CorruptError, match="record 2 is missing"):
        ledger(str(tmp_path)).all()
    assert len(ledger(str(tmp_path)).range(2, 3)) == 1


@pytest.mark.parametrize("bytes_", [b"", b"{", b"\xff\xfe", b"[]", b'{"number": 1}', b"null"])
def test_a_damaged_record_is_corruption(tmp_path: Path, bytes_: bytes) -> None:
    ledger(str(tmp_path)).append(1, record(1))
    (tmp_path / "aliases/a/1.json").write_bytes(bytes_)
    with pytest.raises(CorruptError, match=r"1\.json"):
        ledger(str(tmp_path)).get(1)


def test_a_later_releases_record_is_not_half_understood(tmp_path: Path) -> None:
    """A field we do not know may say what must not be read any more."""
    path = tmp_path / "aliases/a/1.json"
    ledger(str(tmp_path)).append(1, record(1))
    path.write_text(json.dumps({**json.loads(path.read_text()), "code": "7.1", "sealed": True}))
    with pytest.raises(
        HomeError, match=r"tapstate 7\.1, wrote this record; this one does not know its sealed(.|\n)*checkout of tapstate 7\.1"
    ):
        ledger(str(tmp_path)).get(1)


def test_a_record_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    """It lacks the fields that came later."""
    path = tmp_path / "aliases/a/1.json"
    ledger(str(tmp_path)).append(1, record(1))
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "rollback"}))
    assert ledger(str(tmp_path)).get(1) == record(1)


def test_a_record_under_another_number_is_corruption(tmp_path: Path) -> None:
    ledger(str(tmp_path)).append(1, record(1))
    (tmp_path / "aliases/a/2.json").write_bytes((tmp_path / "aliases/a/1.json").read_bytes())
    with pytest.raises(CorruptError, match=r"2\.json"):
        ledger(str(tmp_path)).all()


def test_other_files_are_no_records(tmp_path: Path) -> None:
    ledger(str(tmp_path)).append(1, record(1))
    for name in ("note.txt", "7.json.bak", "-3.json", "².json", "2x.json", ".9.json"):
        (tmp_path / "aliases/a" / name).write_text("x")
    assert ledger(str(tmp_path)).last() == 1
