"""State lookup: the memory-mapped bundle beside Redis, LanceDB and Feast, same rows, same run.

``python -m benchmarks.lookup --users N [--feast] --output json``. Redis is Debian's (``apt-get install redis-server``), started on a
free port of loopback and stopped again; Feast is installed into an environment of its own. A peer that is missing is named in ``absent``.
Every peer must give back the same arrays, which is checked, and turns bytes into arrays within the time that is taken.
"""

import gc
import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import lancedb
import numpy as np
import psutil
import pyarrow as pa
import typer
from lancedb.index import BTree

from benchmarks.synthetic_bundle import make
from schemas.keys import user_key
from schemas.states import StateBatch
from store.client import Bundle

BATCH = 256
FEAST = "feast[redis]==0.67.0"
Get = Callable[[Sequence[str]], list[Any]]


def run(
    users: Annotated[int, typer.Option(help="Users.")] = 1_000_000,
    lookups: Annotated[int, typer.Option(help="Timed lookups of one user; batches are a tenth as many users' worth.")] = 20_000,
    window: Annotated[int, typer.Option(help="Longest window; lengths are even from 0 to it.")] = 64,
    feast: Annotated[bool, typer.Option(help="Also Feast, with its SQLite and Redis online stores.")] = False,
    directory: Annotated[Path | None, typer.Option(help="Where to keep the bundle for another run.")] = None,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    output: Annotated[str, typer.Option(help="json.")] = "json",
) -> None:
    """Print one JSON object."""
    with tempfile.TemporaryDirectory() as scratch:
        work = directory or Path(scratch)
        place = work / f"bundle-{users}-{window}-{seed}"
        if not place.exists():
            _say(f"making a bundle of {users:,} users")
            make(place, users, seed=seed, window=window)
        names = [f"user-{number}" for number in range(users)]
        bundle, opened = _open(place)
        for layer in bundle.layers:
            layer.open_all()
        rng = random.Random(seed)
        singles = rng.choices(names, k=lookups)
        batches = [rng.choices(names, k=BATCH) for _ in range(max(20, lookups // 10 // BATCH))]
        wanted = _bytes([bundle.states(batches[0])[0]])

        def ours(asked: Sequence[str]) -> list[Any]:
            return [bundle.states(asked)[0]]

        found: dict[str, dict[str, Any]] = {"ours": _time(ours, singles, batches)}
        absent: dict[str, str] = {}

        def judge(name: str, get: Get, single: int) -> None:
            _say(f"asking {name}")
            if _bytes(get(batches[0])) != wanted:
                raise SystemExit(f"{name} gives other states than the bundle: its figures would mean nothing")
            found[name] = _time(get, singles[:single], batches)

        with _redis(absent) as port:
            if port:
                for name, get in _redis_peers(port, bundle, names).items():
                    judge(name, get, lookups // 4)
        judge("lancedb", _lancedb(Path(scratch) / "lance", bundle, names), min(lookups, 1_000))
        if feast:
            with _redis(absent) as port:
                found |= _feast(Path(scratch), bundle, names, singles[:500], batches[:20], port, absent)
        # The best that Redis can do for a batch is one MGET; pipelined GETs are told beside it.
        peers = [name for name in found if name != "ours"]
        result = {
            "users": users,
            "bytes_per_user": round(sum(f.bytes for f in bundle.layers[0].manifest.files.values() if f.bytes) / users),
            **{f"{name}_us": found[name]["one"] for name in found},
            **{f"{name}_batch_us": found[name]["batch"] for name in found},
            "ratios": {name: round(found[name]["one"]["p50"] / found["ours"]["one"]["p50"], 1) for name in peers},
            "batch_ratios": {name: round(found[name]["batch"]["p50"] / found["ours"]["batch"]["p50"], 1) for name in peers},
            "batch": BATCH,
            **opened,
            "absent": absent,
            "load_average": psutil.getloadavg()[0],
            "seed": seed,
        }
    print(json.dumps(result))


def _open(place: Path) -> tuple[Bundle, dict[str, Any]]:
    """Open in a fresh process, too: resident memory of one that has done nothing else."""
    code = (
        "import time, psutil, sys; from store.client import Bundle; me = psutil.Process(); before = me.memory_info().rss;"
        "began = time.perf_counter(); bundle = Bundle.open(sys.argv[1]); took = time.perf_counter() - began;"
        "print(took, me.memory_info().rss - before, me.memory_info().rss)"
    )
    told = subprocess.run([sys.executable, "-c", code, str(place)], capture_output=True, text=True, check=True).stdout.split()
    figures = {"open_seconds": round(float(told[0]), 4), "resident_bytes": int(told[2]), "opening_bytes": int(told[1])}
    return Bundle.open(place), figures


def _time(get: Get, singles: Sequence[str], batches: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Microseconds of one and of ``BATCH`` users; the first twentieth warms up."""
    figures = {}
    for name, requests in (("one", [[user] for user in singles]), ("batch", batches)):
        took, clock = [], time.perf_counter_ns
        gc.collect()
        gc.disable()
        for request in [*requests[: len(requests) // 20], *requests]:
            began = clock()
            get(request)
            took.append(clock() - began)
        gc.enable()
        p50, p99 = np.percentile(took[len(requests) // 20 :], [50, 99]) / 1e3
        figures[name] = {"p50": round(p50, 1), "p99": round(p99, 1)}
    return figures


def _bytes(states: list[Any]) -> list[bytes]:
    """Every column of every user: what peers must agree on."""
    every: dict[str, list[bytes]] = {}
    for batch in states:
        for name, array in batch.columns.items():
            every.setdefault(name, []).append(np.ascontiguousarray(array).tobytes())
    return [name.encode() + b"".join(parts) for name, parts in sorted(every.items())]


def _rows(bundle: Bundle, names: Sequence[str], size: int = 5_000) -> Iterator[tuple[Sequence[str], list[tuple[bytes, bytes]]]]:
    """Users and their records, some thousands at a time."""
    user, item = bundle.spec.record("user"), bundle.spec.record("item")
    for start in range(0, len(names), size):
        some = names[start : start + size]
        states, _ = bundle.states(some)
        records: Any = np.zeros(len(some), user)
        items: Any = np.zeros(int(states.offsets[-1]), item)
        for table in (records, items):
            for name in table.dtype.names:
                table[name] = states.columns[name]
        flat, ends = items.tobytes(), (states.offsets * item.itemsize).tolist()
        whole, width = records.tobytes(), user.itemsize
        yield some, [(whole[i * width : (i + 1) * width], flat[ends[i] : ends[i + 1]]) for i in range(len(some))]


def _decoder(bundle: Bundle) -> Callable[[bytes], StateBatch]:
    """One user's record and items, end to end, as arrays."""
    user, item = bundle.spec.record("user"), bundle.spec.record("item")

    def decode(value: bytes) -> StateBatch:
        record, items = np.frombuffer(value, user, 1), np.frombuffer(value, item, offset=user.itemsize)
        columns = {name: record[name] for name in user.names or ()} | {name: items[name] for name in item.names or ()}
        return StateBatch(columns, np.array((0, len(items))))

    return decode


@contextmanager
def _redis(absent: dict[str, str]) -> Iterator[int | None]:
    program = shutil.which("redis-server")
    if program is None:
        absent["redis"] = "no redis-server: apt-get install redis-server"
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"]
    server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        server.terminate()
        server.wait()


def _redis_peers(port: int, bundle: Bundle, names: Sequence[str]) -> dict[str, Get]:
    import redis
    from redis.backoff import ConstantBackoff
    from redis.retry import Retry

    client = redis.Redis(host="127.0.0.1", port=port, retry=Retry(ConstantBackoff(0.5), 40), retry_on_error=[redis.BusyLoadingError])
    _say("filling Redis")
    for some, records in _rows(bundle, names):
        with client.pipeline(transaction=False) as pipeline:
            for name, (record, items) in zip(some, records, strict=True):
                pipeline.set(name, record + items)
            pipeline.execute()
    decode = _decoder(bundle)

    def plain(asked: Sequence[str]) -> list[Any]:
        values: Any = [client.get(asked[0])] if len(asked) == 1 else client.mget(asked)
        return [decode(value) for value in values]

    def pipelined(asked: Sequence[str]) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        for user in asked:
            pipeline.get(user)
        return [decode(value) for value in pipeline.execute()]

    return {"redis": plain, "redis_pipelined": pipelined}


def _lancedb(place: Path, bundle: Bundle, names: Sequence[str]) -> Get:
    _say("filling LanceDB")
    schema = pa.schema([pa.field("key", pa.int64(), nullable=False), pa.field("state", pa.large_binary(), nullable=False)])

    def batches() -> Iterator[pa.RecordBatch]:
        for some, records in _rows(bundle, names):
            keys = pa.array([user_key(name) for name in some], pa.int64())
            yield pa.RecordBatch.from_arrays([keys, pa.array([r + i for r, i in records], pa.large_binary())], schema=schema)

    table = lancedb.connect(str(place)).create_table("states", pa.RecordBatchReader.from_batches(schema, batches()), schema=schema)
    table.create_index("key", config=BTree())
    decode = _decoder(bundle)

    def get(asked: Sequence[str]) -> list[Any]:
        keys = [user_key(user) for user in asked]
        where = f"key = {keys[0]}" if len(keys) == 1 else f"key IN ({', '.join(map(str, set(keys)))})"
        rows = table.search().where(where).limit(len(keys)).to_arrow()
        values = dict(zip(rows.column("key").to_pylist(), rows.column("state").to_pylist(), strict=True))
        return [decode(values[key]) for key in keys]

    return get


def _feast(
    work: Path,
    bundle: Bundle,
    names: Sequence[str],
    singles: Sequence[str],
    batches: Sequence[Sequence[str]],
    port: int | None,
    absent: dict[str, str],
) -> dict[str, dict[str, Any]]:
    """Feast's own pins clash with ours: an environment of its own, and a program that gets rows and requests as files."""
    place = work / "feast"
    place.mkdir()
    python = place / "venv/bin/python"
    _say(f"installing {FEAST}")
    subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], check=True)
    made = subprocess.run([str(python), "-m", "pip", "install", "--quiet", FEAST], capture_output=True, text=True, check=False)
    if made.returncode:
        absent["feast"] = f"pip install {FEAST}: {made.stderr.strip().splitlines()[-1:]}"
        return {}
    _feast_rows(place, bundle, names)
    (place / "requests.json").write_text(json.dumps({"singles": list(singles), "batches": [list(b) for b in batches]}))
    program = Path(__file__).with_name("feast_peer.py")
    wanted = [dict(zip(*row, strict=True)) for row in _hex(bundle, batches[0])]
    found = {}
    for store in ("sqlite", *(["redis"] if port else [])):
        for form in ("features", "bytes"):
            name = f"feast_{store}" + ("_bytes" if form == "bytes" else "")
            _say(f"filling and asking {name}")
            command = [str(python), str(program), str(place), store, form, str(port or 0)]
            told = subprocess.run(command, capture_output=True, text=True, check=False)
            if told.returncode:
                absent[name] = told.stderr.strip()[-300:]
                continue
            if json.loads((place / f"{store}-{form}" / "given.json").read_text()) != wanted:
                raise SystemExit(f"{name} gives other states than the bundle: its figures would mean nothing")
            shutil.rmtree(place / f"{store}-{form}")
            found[name] = json.loads(told.stdout.strip().splitlines()[-1])
    return found


def _feast_rows(place: Path, bundle: Bundle, names: Sequence[str]) -> None:
    """``rows.arrow``: each user's state as one binary, and by column in the types that Feast has; ``spec.json``: the columns."""
    spec = {per: [(c.name, np.dtype(c.dtype).str, c.shape) for c in bundle.spec.columns if c.per == per] for per in ("user", "item")}
    (place / "spec.json").write_text(json.dumps(spec))
    user, item = bundle.spec.record("user"), bundle.spec.record("item")
    with pa.OSFile(str(place / "rows.arrow"), "wb") as sink:
        writer: Any = None
        for some, records in _rows(bundle, names):
            states = bundle.states(some)[0]
            table = {"user": pa.array(list(some)), "state": pa.array([record + items for record, items in records], pa.binary())}
            for per, record in (("user", user), ("item", item)):
                ends = np.arange(len(some) + 1) if per == "user" else states.offsets
                for name in record.names or ():
                    table[name] = _feature(np.ascontiguousarray(states.columns[name]), ends)
            batch = pa.RecordBatch.from_pydict(table)
            writer = writer or pa.ipc.new_file(sink, batch.schema)
            writer.write_batch(batch)
        writer.close()


def _feature(array: Any, ends: Any) -> pa.Array:
    """A column as Feast can hold it: small integers as bytes (it has no list of them), floats as float32, others as int64."""
    width = array[0].size if len(array) else 1
    if array.dtype == np.int8:
        flat, kind = array.reshape(-1), pa.binary()
        return pa.array([flat[a * width : b * width].tobytes() for a, b in pairwise(ends)], kind)
    value = array.reshape(-1).astype(np.float32 if array.dtype.kind == "f" else np.int64)
    return pa.ListArray.from_arrays(pa.array(ends * width, pa.int32()), pa.array(value))


def _hex(bundle: Bundle, asked: Sequence[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Names and bytes of the columns of each user."""
    for user in asked:
        columns = bundle.states([user])[0].columns
        yield list(columns), [np.ascontiguousarray(array).tobytes().hex() for array in columns.values()]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    typer.run(run)
