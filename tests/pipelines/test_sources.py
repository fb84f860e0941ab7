"""Sources read what is there, row by row accounted for, and say what is not."""

import csv
import gzip
import hashlib
import io
import json
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipelines.sources import Source
from pipelines.sources.files import File
from pipelines.sources.gitlog import GitLogSource
from pipelines.sources.jsonl import read_jsonl
from pipelines.sources.lamp import LampSource
from pipelines.sources.movielens import MovieLensSource
from pipelines.sources.table import TableSource
from schemas.errors import ConfigError, InputError

ROW = {"user_id": "u", "ts": 1_700_000_000, "text": "hello"}


def read(source: Source) -> tuple[pl.DataFrame, list[tuple[int, str, str]], list[str]]:
    """All rows, all unreadable rows as tuples, and all damage of a source."""
    batches = list(source.batches())
    frames = [b.rows for b in batches if len(b.rows)]
    rows = pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame()
    bad = [row for b in batches for row in b.unreadable.rows()]
    return rows, bad, [b.damaged for b in batches if b.damaged]


def lines(*rows: object) -> bytes:
    return b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)


def write(path: Path, data: bytes) -> str:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


# JSON lines


def test_jsonl_keeps_digits_and_numbers_lines(tmp_path: Path) -> None:
    big = 12345678901234567890123
    data = b"\xef\xbb\xbf" + lines({**ROW, "user_id": big}, b"\r\n", {**ROW, "ts": "2024-01-01"}, {**ROW, "ts": 1.5})
    rows, bad, damage = read(TableSource([write(tmp_path / "a.jsonl", data.rstrip(b"\n"))]))
    assert rows["user_id"].to_list() == [str(big), "u", "u"]
    assert rows["ts"].to_list() == ["1700000000", "2024-01-01", "1.5"]
    assert rows["line"].to_list() == [1, 3, 4]
    assert not bad
    assert not damage


def test_jsonl_bad_lines_are_known_by_line_and_reason(tmp_path: Path) -> None:
    data = lines(
        ROW, b'{"user_id": \n', b'{"user_id":"\xff"}\n', b'{"ts": NaN}\n', b"[1]\n", b'{"text":"\\ud800"}\n',
        b'{"text":"\\ud83d\\ude00 \\\\ud800", "user_id":"u", "ts":1}\n', b'{"a":1} {"b":2}\n', b'{"ts":1e999}\n', ROW,
    )  # fmt: skip
    rows, bad, _ = read(TableSource([write(tmp_path / "a.jsonl", data)]))
    assert rows["line"].to_list() == [1, 7, 10]
    assert rows["text"][1] == "😀 \\ud800"
    assert {line: reason.split(":")[0] for line, _, reason in bad} == {
        2: "not valid JSON", 3: "not valid UTF-8", 4: "not valid JSON", 5: "not valid JSON", 6: "not valid UTF-8",
        8: "not valid JSON", 9: "not valid JSON",
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(
    st.builds(lambda t: json.dumps({"user_id": "u", "ts": 1, "text": t}).encode(), st.text(max_size=9)),
    st.binary(max_size=9).map(lambda b: b.replace(b"\n", b"").replace(b"\xef", b"")),
), max_size=700), st.integers(1, 5))  # fmt: skip
def test_jsonl_agrees_with_json(tmp_path_factory: pytest.TempPathFactory, rows: list[bytes], copies: int) -> None:
    """Whatever the lines, each is one row or one unreadable row, as ``json`` says; blank ones are none."""
    rows = rows * copies
    assume(not b"".join(rows).lstrip(b" \t\r").startswith(b"["))  # a JSON array is refused as a whole
    path = tmp_path_factory.mktemp("j") / "a.jsonl"
    path.write_bytes(b"\n".join(rows))
    found = list(read_jsonl(File("a", "jsonl", False, str(path)), {"text": "text"}))
    good = {n: t for b in found for n, t in b.rows.select("line", "text").rows()}
    bad = [n for b in found for n in b.unreadable["line"]]
    expected: dict[int, str] = {}
    for number, row in enumerate(rows, 1):
        try:
            value = json.loads(row.decode(), parse_constant=float.fromhex)  # NaN is no JSON; bytes alone would be guessed as UTF-16
            if isinstance(value, dict):
                text = value.get("text")
                expected[number] = text if text is None else text.encode().decode()
        except ValueError:
            pass
    assert good == expected
    filled = [number for number, row in enumerate(rows, 1) if row.strip(b" \t\r\n")]
    assert sorted([*good, *bad]) == filled


@pytest.mark.parametrize("megabytes", [5, 50])
def test_jsonl_long_lines(tmp_path: Path, megabytes: int) -> None:
    data = lines(ROW, {**ROW, "text": "x" * (megabytes << 20)}, b"{broken\n", ROW)
    for name in ("a.jsonl", "b.jsonl.gz"):
        rows, bad, _ = read(TableSource([write(tmp_path / name, data)]))
        assert rows["text"].str.len_bytes().to_list() == [5, megabytes << 20, 5]
        assert [b[0] for b in bad] == [3]


def test_jsonl_line_too_long_to_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.sources.jsonl.MAX_LINE", 9 << 20)
    data = lines(ROW, {**ROW, "text": "x" * (30 << 20)}, ROW)
    rows, bad, _ = read(TableSource([write(tmp_path / "a.jsonl", data)]))
    assert rows["line"].to_list() == [1, 3]
    assert [(line, reason) for line, _, reason in bad] == [(2, "the line is longer than 9 MiB")]


def test_jsonl_missing_keys(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", lines({"user": "u", "ts": 1, "text": "t"}, {"ts": 2, "text": "t", "zip": 1}))
    rows, _, _ = read(TableSource([path], {"user_id": "user"}))
    assert rows["user_id"].to_list() == ["u", None]
    with pytest.raises(InputError, match="'who'; keys seen: text, ts, user, zip"):
        read(TableSource([path], {"user_id": "who"}))
    with pytest.raises(InputError, match="'user_id'"):
        read(TableSource([path]))
    with pytest.raises(InputError, match="JSON array"):
        read(TableSource([write(tmp_path / "b.json", b'[{"a":1}]')]))
    deletes = write(tmp_path / "d.jsonl", lines({"user_id": "u", "event_id": "e"}))
    assert len(read(TableSource([deletes], {}, {"op": "delete"}))[0]) == 1


# gzip


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_truncated_gzip_keeps_whole_rows(tmp_path: Path, ending: str) -> None:
    text = "".join(f'{{"user_id":"u{i}","ts":{i},"text":"{i * 7919 % 9973}"}}\n' for i in range(5000))
    if ending == "csv":
        text = "user_id,ts,text\n" + "".join(f"u{i},{i},{i * 7919 % 9973}\n" for i in range(5000))
    data = gzip.compress(text.encode())
    path = tmp_path / f"a.{ending}.gz"
    path.write_bytes(data[: len(data) // 2])
    rows, bad, damage = read(TableSource([str(path)]))
    assert damage == ["truncated gzip"]
    assert rows["ts"].to_list() == [str(i) for i in range(len(rows))]
    assert len(rows) > 1000
    assert [(line, reason) for line, _, reason in bad] == [(rows["line"][-1] + 1, "the file ends in the middle of a row: truncated gzip")]


def test_corrupt_and_false_gzip(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(lines(*[{**ROW, "text": str(i * 7919 % 9973)} for i in range(90_000)])))
    data[len(data) // 2] ^= 255
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    rows, _, damage = read(TableSource([str(tmp_path / "a.jsonl.gz")]))
    assert len(rows) > 10_000
    assert damage[0].startswith("corrupt gzip")
    (tmp_path / "b.jsonl.gz").write_bytes(lines(ROW))
    with pytest.raises(InputError, match="the name says gzip"):
        read(TableSource([str(tmp_path / "b.jsonl.gz")]))


def test_gzip_of_several_members(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(ROW)) + gzip.compress(lines(ROW)) + b"\0" * 9)
    assert len(read(TableSource([str(tmp_path)]))[0]) == 2


# CSV


def test_csv_rows_and_lines(tmp_path: Path) -> None:
    data = (
        b'\xef\xbb\xbfid,user_id,text,ts\r\n1,u,"two\r\nlines, ""quoted""",5\r\n\r\n2,u,short\r\n3,u,\xff,6\r\n'
        b"4,u,nul\0,7\r\n5,u,a,b,8\r\n6,,,9"
    )
    rows, bad, _ = read(TableSource([write(tmp_path / "a.csv", data)]))
    assert rows.select("line", "user_id", "text", "ts").rows() == [
        (2, "u", 'two\r\nlines, "quoted"', "5"), (7, "u", "nul\0", "7"), (9, None, None, "9"),
    ]  # fmt: skip
    assert [(line, reason) for line, _, reason in bad] == [
        (5, "3 columns where the header has 4"), (6, "not valid UTF-8"), (8, "5 columns where the header has 4"),
    ]  # fmt: skip


def test_csv_stray_and_unclosed_quotes(tmp_path: Path) -> None:
    data = b'user_id,ts,text\nu,1,5" disk\nu,2,"ab"c\nu,3,"open\nu,4,fine\n'
    rows, bad, _ = read(TableSource([write(tmp_path / "a.csv", data)]))
    assert rows.select("line", "text").rows() == [(2, '5" disk'), (3, "abc"), (5, "fine")]
    assert [(line, raw) for line, raw, _ in bad] == [(4, 'u,3,"open\n')]


def test_csv_unclosed_quote_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.sources.delimited.MAX_RECORD", 1 << 20)
    data = b'user_id,ts,text\nu,0,"open\n' + b"u,1,fine\n" * 1_500_000
    rows, bad, _ = read(TableSource([write(tmp_path / "a.csv", data)]))
    assert len(rows) == 1_500_000
    assert [b[0] for b in bad] == [2]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.text(st.sampled_from('a",\n\té '), max_size=5), min_size=2, max_size=4), max_size=30),
       st.booleans(), st.sampled_from(["\n", "\r\n"]))  # fmt: skip
def test_csv_agrees_with_csv(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], quoted: bool, end: str) -> None:
    """Rows that ``csv`` writes come back; those with another number of columns are unreadable."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL, lineterminator=end)
    writer.writerow(["user_id", "ts", "text"])
    writer.writerows(rows)
    path = tmp_path_factory.mktemp("c") / "a.csv"
    path.write_bytes(out.getvalue().encode())
    got, bad, _ = read(TableSource([str(path)]))
    expected = [tuple(cell or None for cell in row) for row in rows if len(row) == 3]
    assert (got.select("user_id", "ts", "text").rows() if len(got) else []) == expected
    assert len(bad) == len(rows) - len(expected)


def test_tsv_columns_and_constants(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", b"who\tts\tline\nu\t1\tsay, hi\n")
    rows, _, _ = read(TableSource([path], {"user_id": "who", "text": "line"}, {"target": "x"}))
    assert rows.select("user_id", "text", "target", "line").rows() == [("u", "say, hi", "x", 2)]
    with pytest.raises(InputError, match="no column 'user_id', 'text'; columns there: who, ts, line"):
        TableSource([path]).batches()


# Parquet


def test_parquet_keeps_types_and_finds_bad_bytes(tmp_path: Path) -> None:
    table = pa.table(
        {
            "user_id": pa.array([2**60 + 1, 2, 3], pa.int64()),
            "ts": pa.array([1, 2, 3], pa.timestamp("ms", "Europe/Berlin")),
            "text": pa.array([b"a", b"\xff", None], pa.binary()),
            "target": pa.array(["x", "y", None]).dictionary_encode(),
            "value": pa.array([date(2024, 1, 1)] * 3),
            "event_id": pa.array([[1], None, [2]]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    rows, bad, _ = read(TableSource([str(tmp_path / "a.parquet")]))
    assert rows["user_id"].to_list() == [2**60 + 1, 3]
    assert rows["text"].to_list() == ["a", None]
    assert rows["target"].to_list() == ["x", None]
    assert rows["ts"][0] == datetime(1970, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)
    assert [(line, reason) for line, _, reason in bad] == [(2, "not valid UTF-8")]


def test_corrupt_parquet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a Parquet file"):
        TableSource([write(tmp_path / "a.parquet", b"nothing")]).batches()
    table = pa.table({"user_id": ["u"] * 90_000, "ts": range(90_000), "text": [str(i * 7919) for i in range(90_000)]})
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=30_000, compression="zstd")
    data = bytearray((tmp_path / "b.parquet").read_bytes())
    for at in range(len(data) // 2, len(data) // 2 + 4000):
        data[at] ^= 85
    _, _, damage = read(TableSource([write(tmp_path / "b.parquet", bytes(data))]))
    assert len(damage) == 1
    assert damage[0].startswith("cannot be read further")


# Files


def test_files_directories_and_globs(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "b.jsonl", lines({**ROW, "text": "b"}))
    write(tmp_path / "a.csv.gz", b"user_id,ts,text\nu,1,a\n")
    write(tmp_path / "notes.txt", b"no events")
    write(tmp_path / "empty.csv", b"")
    write(tmp_path / "empty.jsonl.gz", b"")
    (tmp_path / "zero.jsonl.gz").write_bytes(b"")
    for entry in (str(tmp_path), f"file://{tmp_path}"):
        assert read(TableSource([entry]))[0]["text"].to_list() == ["a", "b"]
    assert read(TableSource([f"{tmp_path}/**/*.jsonl"]))[0]["text"].to_list() == ["b"]
    for missing in ("nope.csv", "nope*.csv", "notes.txt"):
        with pytest.raises(InputError):
            TableSource([str(tmp_path), str(tmp_path / missing)]).batches()


def test_mapping_names_fields() -> None:
    with pytest.raises(ConfigError, match="use one of user_id, event_id, ts"):
        TableSource(["a"], {"user": "x"})
    with pytest.raises(ConfigError, match="both"):
        TableSource(["a"], {"target": "x"}, {"target": "y"})


@pytest.mark.s3
def test_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boto3 = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    try:
        for key, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
        }.items():  # fmt: skip
            monkeypatch.setenv(key, value)
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        many = lines(*[{**ROW, "text": f"{i} " + "x" * 200} for i in range(60_000)])
        client.put_object(Bucket="bucket", Key="in/day=1/a b.jsonl.gz", Body=gzip.compress(many))
        pq.write_table(pa.table({"user_id": ["é"], "ts": [1], "text": ["p"]}), tmp_path / "p.parquet")
        client.upload_file(str(tmp_path / "p.parquet"), "bucket", "in/day=2/p.parquet")
        assert len(read(TableSource(["s3://bucket/in"]))[0]) == 60_001
        assert len(read(TableSource(["s3://bucket/in/*/*.gz"]))[0]) == 60_000
        assert read(TableSource(["s3://bucket/in/day=2/p.parquet"]))[0]["user_id"].to_list() == ["é"]
        for missing in ("s3://bucket/nope", "s3://nobucket/a.csv", "s9://bucket/a.csv"):
            with pytest.raises(InputError):
                TableSource([missing]).batches()
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet"])
def test_memory_stays_flat(tmp_path: Path, name: str) -> None:
    """300 MB of rows go through parsing and validation in a process that grows by far less."""
    rows, path = 3_000_000, tmp_path / name
    frame = pl.DataFrame({"user_id": [f"user{i % 1000}" for i in range(50_000)]}).with_columns(
        pl.lit(1_700_000_000).alias("ts"), pl.lit("some text that is rather short, " * 2).alias("text")
    )
    if name.endswith("parquet"):
        pl.concat([frame] * (rows // 50_000)).write_parquet(path, row_group_size=rows)
    else:
        block = frame.write_csv(include_header=False) if "csv" in name else frame.write_ndjson()
        with gzip.open(path, "wt", compresslevel=1) if name.endswith("gz") else path.open("w") as file:
            file.write("user_id,ts,text\n" if "csv" in name else "")
            for _ in range(rows // 50_000):
                file.write(block)
    script = """
import resource, sys
from datetime import UTC, datetime
from pipelines.sources.table import TableSource
from pipelines.validation import validate
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
now, before, n = datetime.now(UTC), peak(), 0
for batch in TableSource([sys.argv[1]]).batches():
    n += len(validate(batch, now=now, historical=True, run=1)[0])
print(n, (peak() - before) >> 10)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    count, grown = map(int, done.stdout.split())
    assert count == rows
    assert grown < 220, f"grew by {grown} MiB"


# gitlog


def git(repository: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=Some@One.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(repository), *identity, *arguments], check=True, capture_output=True)


def test_gitlog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.sources.gitlog.COMMITS", 2)
    monkeypatch.setattr("pipelines.sources.gitlog._READ", 50)
    git(tmp_path, "init", "-q", ".")
    for name in ("README", "lib/a", "lib/ü\nodd", 'q"uote/x'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    stamp = {"GIT_AUTHOR_DATE": "1600000000 +0200", "GIT_COMMITTER_DATE": "1600000009 +0000"}
    for key, value in stamp.items():
        monkeypatch.setenv(key, value)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first: $(touch x) ü\n\nbody")
    git(tmp_path, "commit", "-qm", "nothing", "--allow-empty")
    (tmp_path / "README").write_text("more")
    (tmp_path / 'q"uote/x').write_text("more")
    git(tmp_path, "commit", "-qam", "third")
    (tmp_path / "README").write_text("most")
    git(tmp_path, "commit", "-qam", "fourth")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    rows, bad, damage = read(GitLogSource(tmp_path))
    assert not bad
    assert not damage
    assert rows["text"].to_list() == ["fourth", "third", "nothing", "first: $(touch x) ü"]
    assert rows["target"].to_list() == ["(root)", "(root)", None, "lib"]
    assert set(rows["ts"]) == {1600000000}
    assert set(rows["known_at"]) == {1600000009}
    assert rows["line"].to_list() == [1, 2, 3, 4]
    assert rows["event_id"].str.len_chars().to_list() == [40] * 4
    assert set(rows["user_id"]) == {hashlib.sha256(b"some@one.org").hexdigest()[:16]}


def test_gitlog_without_repository(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nope"):
        with pytest.raises(InputError):
            GitLogSource(path).batches()
    git(tmp_path, "init", "-q", ".")
    assert list(GitLogSource(tmp_path).batches()) == []


# MovieLens, LaMP


def test_movielens(tmp_path: Path) -> None:
    source = MovieLensSource(tmp_path)
    with pytest.raises(InputError, match=r"ratings\.csv"):
        source.batches()
    write(tmp_path / "ratings.csv", b"userId,movieId,rating,timestamp\r\n7,1,4.0,964982703\r\n7,3,0.5,964982704\r\nx\r\n")
    with pytest.raises(InputError, match=r"movies\.csv"):
        source.batches()
    write(tmp_path / "movies.csv", b'movieId,title,genres\n1,"Story, A (1995)",Comedy|Drama\n2,B,(no genres listed)\n')
    rows, bad, _ = read(source)
    assert rows.select("user_id", "event_id", "ts", "text", "target", "value", "line").rows() == [
        ("7", "rating:1", "964982703", "Story, A (1995). Comedy, Drama", "4.0", "4.0", 2),
        ("7", "rating:3", "964982704", None, "0.5", "0.5", 3),
    ]
    assert [b[0] for b in bad] == [4]


PROFILES = {
    "1": ({"id": "i", "title": "T", "abstract": "A"}, "T. A", None, None),
    "2M": ({"id": "i", "tag": "g", "description": "D"}, "D", "g", None),
    "LaMP_2N": ({"id": "i", "text": "D", "title": "T", "category": "c"}, "D", "c", None),
    "LaMP-3": ({"id": "i", "text": "D", "score": "4"}, "D", "4", "4"),
    "4": ({"id": "i", "text": "D", "title": "T"}, "D", "T", None),
    "5": ({"id": "i", "abstract": "A", "title": "T", "date": "2015"}, "A", "T", None),
    "6": ({"id": "i", "text": "D", "title": "T"}, "D", "T", None),
    "7": ({"id": "i", "text": "D", "date": "2020-02-02"}, "D", None, None),
}


@pytest.mark.parametrize("task", PROFILES)
def test_lamp(tmp_path: Path, task: str) -> None:
    item, text, target, value = PROFILES[task]
    questions = [{"id": "q1", "input": "?", "profile": [item, item]}, {"id": "q2", "user_id": 9, "profile": [item]}, 5]
    folder = tmp_path / ("LaMP_" + task.removeprefix("LaMP")[-2:].lstrip("_-"))
    folder.mkdir()
    (folder / "dev_questions.json").write_text(json.dumps(questions, indent=1))
    rows, bad, damage = read(LampSource(tmp_path, task))
    assert rows["user_id"].to_list() == ["q1", "q1", "9"]
    assert rows["line"].to_list() == [1, 1, 2]
    assert rows.select("event_id", "text", "target", "value").row(0) == ("i", text, target, value)
    dates = {"2015": ["2015-01-01"] * 2, "2020-02-02": ["2020-02-02"] * 2}
    plain = ["2000-01-01T00:00:00+00:00", "2000-01-02T00:00:00+00:00"]
    assert rows["ts"].to_list()[:2] == dates.get(str(item.get("date")), plain)
    assert [b[0] for b in bad] == [3]
    assert not damage


def test_lamp_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.sources.files.CHUNK", 100)
    with pytest.raises(ConfigError):
        LampSource(tmp_path, 8)
    with pytest.raises(InputError, match="train_questions"):
        LampSource(tmp_path, 7).batches()
    profile = [{"id": str(i), "text": "é" * i} for i in range(50)]
    data = json.dumps([{"id": str(i), "profile": profile} for i in range(9)], ensure_ascii=False).encode()
    (tmp_path / "train_questions.json").write_bytes(data)
    assert len(read(LampSource(tmp_path, 7))[0]) == 450
    (tmp_path / "train_questions.json").write_bytes(data[: len(data) // 2])
    rows, _, damage = read(LampSource(tmp_path, 7))
    assert len(rows) == 200
    assert "breaks" in damage[0]
    (tmp_path / "train_questions.json").write_bytes(b"{}")
    with pytest.raises(InputError, match="no JSON array"):
        read(LampSource(tmp_path, 7))
