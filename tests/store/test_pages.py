"""Pages: a part of a ledger, a part of the rejects of one ingest."""

from collections.abc import Callable

from schemas.records import IngestRecord
from store.home import Home
from store.pages import newest_first, rejects


def test_pages(home: Home, put: Callable[..., IngestRecord]) -> None:
    assert list(newest_first(home.ingests)) == []
    for n in range(3):
        bad = [{"user_id": "", "ts": 1, "text": f"{n} {i}"} for i in range(5 * n)]
        put(home, [{"user_id": "u", "ts": 1_700_000_000 + n, "text": "x"}, *bad], name=f"{n}.jsonl")
    assert [record.number for record in newest_first(home.ingests)] == [3, 2, 1]
    assert [record.number for record in newest_first(home.ingests, 3)] == [2, 1]
    assert [record.number for record in newest_first(home.ingests, 99)] == [3, 2, 1]
    assert list(newest_first(home.ingests, 1)) == []
    last = home.ingests.get(3)
    assert last
    parts = [rejects(home, last, start, 4) for start in range(0, 12, 4)]
    assert [len(part) for part in parts] == [4, 4, 2]
    raws = [raw for part in parts for raw in part["raw"]]
    assert sorted(raws) == sorted(f for f in raws if '"text":"2 ' in f)
    assert len(set(raws)) == 10
