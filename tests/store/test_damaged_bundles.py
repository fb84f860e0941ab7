"""Two hundred damaged bundles, each refused with a clear error before any answer; and no bytes break the reader."""

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_bundles import AS_OF, USERS, answer, graph, make_bundle, reseal

from schemas.errors import CorruptError, NotFoundError, TapstateError
from schemas.keys import content_hash
from store.client import Bundle
from store.manifest import Manifest

LARGE = ("states/00000.arrow", "states/00002.arrow", "index.arrow")
OTHERS = ("gone.arrow", "erased.arrow", "golden.json", "tokenizer.json", "head.onnx", "static_head.onnx", "query_encoder.onnx")


def use(path: Path) -> None:
    """Everything a server would do with a bundle."""
    bundle = Bundle.open(path)
    bundle.prefix(USERS, ["two words"] * len(USERS), now=AS_OF)
    bundle.static_prefix(USERS, now=AS_OF)


def refused(path: Path) -> None:
    with pytest.raises((CorruptError, NotFoundError)) as caught:
        use(path)
    assert caught.value.where
    assert caught.value.mend
    assert len(caught.value.what) > 10


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest and give it the id that fits, as who means harm would."""
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    manifest["bundle_id"] = content_hash({k: v for k, v in manifest.items() if k not in ("created_at", "bundle_id")})
    (path / "manifest.json").write_text(json.dumps(manifest))


def put(keys: list[Any], value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def move(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    """A file under another name, also where the states name it."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][new] = manifest["files"].pop(old)
        for file in manifest["states"]["files"]:
            if file["name"] == old:
                file["name"] = new

    return change


HUGE, LIAR = 1 << 62, "f" * 64
MANIFESTS: dict[str, Callable[[dict[str, Any]], None]] = {
    **{
        f"path {n}": move("states/00000.arrow", name)
        for n, name in enumerate(
            [
                "../v0/states/00000.arrow",
                "/etc/passwd",
                "states/../../x.arrow",
                "states/00000.arrow/..",
                "C:\\x.arrow",
                "states/00000.arrow\0",
                "",
            ]
        )
    },
    **{
        f"size {n}": put(["files", "states/00000.arrow", "bytes"], size)
        for n, size in enumerate([HUGE, -1, 0, 2**80, 1.5, "9", None, True])
    },
    **{f"users {n}": put(["states", "files", 0, "users"], users) for n, users in enumerate([HUGE, -1, 12, 10, 0, 2**70, "11", None])},
    **{f"block {n}": put(["block_bytes"], size) for n, size in enumerate([0, -1, 1, HUGE, "4194304", None])},
    **{f"hash {n}": put(["files", "index.arrow", "sha256"], h) for n, h in enumerate([[LIAR], [], [LIAR] * 9, [1], "x", None, ["0"]])},
    **{
        f"shape {n}": put(["states", "spec", "columns", 0, "shape"], shape)
        for n, shape in enumerate([[HUGE], [-2], [3], [], "2", None, [2, HUGE]])
    },
    **{
        f"dtype {n}": put(["states", "spec", "columns", 0, "dtype"], name)
        for n, name in enumerate(["object", "float64", "float128", "", None, 7])
    },
    **{
        f"column {n}": put(["states", "spec", "columns", 1, key], value)
        for n, (key, value) in enumerate(
            [("per", "night"), ("name", "mark"), ("name", None), ("scale", "mark"), ("more", 1), ("per", "user")]
        )
    },
    **{
        f"base {n}": put(["base"], base)
        for n, base in enumerate(
            [
                {},
                7,
                {"name": "../v0", "bundle_id": LIAR, "files": []},
                {"name": "v0", "bundle_id": LIAR, "files": ["states/00000.arrow"]},
                {"name": "nobody", "bundle_id": LIAR, "files": []},
            ]
        )
    },
    **{
        f"field {n}": put(keys, value)
        for n, (keys, value) in enumerate(
            [
                (["prefix", "dim"], 3),
                (["prefix", "length"], HUGE),
                (["prefix", "length"], 2),
                (["prefix"], None),
                (["format"], 1),
                (["format"], 3),
                (["valid_until"], "late"),
                (["as_of"], 1.5),
                (["users"], -5),
                (["llm"], {}),
                (["query_encoder", "dim"], 0),
                (["states"], []),
                (["files"], {}),
                (["files", "extra.onnx"], {"bytes": 0, "sha256": []}),
                (["states", "files"], []),
                (["states", "spec", "capacity"], 1),
                (["states", "files", 1, "name"], "states/00000.arrow"),
                (["version"], None),
                (["prefix", "rms"], "big"),
                (["states", "spec"], 3),
            ]
        )
    },
    **{
        f"tasks {n}": put(["tasks"], tasks)
        for n, tasks in enumerate([["rating"], ["a", "a"], [1], [["a"]], "ab", None, {"a": 1}, [str(i) for i in range(65)]])
    },
}


def cases() -> list[tuple[str, Callable[[Path], None]]]:
    rng = random.Random(0)
    made: list[tuple[str, Callable[[Path], None]]] = []
    for name in (*LARGE, *OTHERS, "manifest.json"):
        for share in (0.0, 0.3, 0.9, 0.999):
            made.append(
                (f"cut {name} {share}", lambda p, n=name, s=share: (p / n).write_bytes((d := (p / n).read_bytes())[: int(len(d) * s)]))
            )
        for turn in range(6):
            made.append((f"flip {name} {turn}", lambda p, n=name, at=rng.random(), bit=rng.randrange(8): flip(p / n, at, bit)))
        made.append((f"grow {name}", lambda p, n=name: (p / n).write_bytes((p / n).read_bytes() + b" 1")))
        made.append((f"remove {name}", lambda p, n=name: (p / n).unlink()))
    swaps = [("head.onnx", "static_head.onnx"), (LARGE[0], LARGE[1]), ("index.arrow", "gone.arrow"), ("golden.json", "tokenizer.json")]
    for one, other in swaps:
        for sealed in (False, True):
            made.append((f"swap {one} {other} {sealed}", lambda p, a=one, b=other, s=sealed: swap(p, a, b, s)))
    made += [(f"manifest {name}", lambda p, c=change: rewrite(p, c)) for name, change in MANIFESTS.items()]
    for name in ("head.onnx", "static_head.onnx"):
        other = graph(name != "head.onnx").replace(b"ReduceSum", b"ReduceMax")
        made.append((f"another LLM's {name}", lambda p, n=name, d=other: resealed(p, n, d)))
    return made


def flip(path: Path, at: float, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1 << bit
    path.write_bytes(data)


def swap(path: Path, one: str, other: str, sealed: bool) -> None:
    a, b = (path / one).read_bytes(), (path / other).read_bytes()
    (path / one).write_bytes(b)
    (path / other).write_bytes(a)
    if sealed:
        reseal(path)


def resealed(path: Path, name: str, data: bytes) -> None:
    (path / name).write_bytes(data)
    reseal(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "v1"
    make_bundle(path, USERS)
    return path


def test_two_hundred_damaged_bundles(whole: Path, tmp_path: Path) -> None:
    use(whole)
    every = cases()
    assert len(every) >= 200
    accepted = []
    for number, (name, damage) in enumerate(every):
        path = tmp_path / f"d{number}"
        shutil.copytree(whole, path)
        damage(path)
        try:
            refused(path)
        except pytest.fail.Exception:
            # A flipped bit may turn one white space of JSON into another, or change when it was created: the bundle is the same one.
            bundle = Bundle.open(path)
            same = bundle.bundle_id == Bundle.open(whole).bundle_id
            if not (same and bundle.static_prefix(["u3"], now=AS_OF).prefix.tolist() == [answer("u3")]) or not name.startswith(
                ("flip manifest", "grow manifest")
            ):
                accepted.append(name)
        shutil.rmtree(path)
    assert accepted == []


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda x: (
                st.lists(x, max_size=4)
                | st.dictionaries(st.sampled_from(["format", "files", "states", "base", "spec", "x"]), x, max_size=4)
            ),
            max_leaves=12,
        ).map(lambda data: json.dumps(data).encode()),
    )
)
def test_no_manifest_breaks_the_reader(raw: bytes) -> None:
    with pytest.raises(CorruptError):
        Manifest.parse(raw, Path("x"))


_paths: Any = st.sampled_from(
    [
        ["states", "files", 0, "users"],
        ["states", "spec"],
        ["states", "spec", "columns"],
        ["states", "spec", "columns", 0],
        ["files"],
        ["base"],
        ["files", "index.arrow"],
        ["block_bytes"],
        ["prefix"],
        ["llm"],
        ["query_encoder"],
        ["as_of"],
        ["states", "spec", "columns", 1, "empty"],
    ]
)
_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x),
)


@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_paths, _values)
def test_no_resealed_manifest_breaks_the_reader(whole: Path, tmp_path: Path, keys: list[Any], value: Any) -> None:
    """Whatever it says, it is refused or the answers are right."""
    path = tmp_path / "fuzzed"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(whole, path)
    rewrite(path, put(keys, value))
    try:
        use(path)
    except TapstateError:
        return
    assert Bundle.open(path).static_prefix(["u3"], now=AS_OF).prefix.tolist() == [answer("u3")]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([*LARGE, "gone.arrow", "erased.arrow"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_no_resealed_arrow_file_breaks_the_reader(whole: Path, tmp_path: Path, name: str, edits: list[tuple[float, int]]) -> None:
    """Bytes changed by who also made the hashes: refused, or answered, but never a crash."""
    path = tmp_path / "fuzzed"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(whole, path)
    data = bytearray((path / name).read_bytes())
    for at, byte in edits:
        data[int(at * len(data))] = byte
    resealed(path, name, bytes(data))
    with contextlib.suppress(TapstateError):
        use(path)


def test_compressed_states_are_refused(whole: Path, tmp_path: Path) -> None:
    """They could declare any size."""
    path = tmp_path / "v1"
    shutil.copytree(whole, path)
    batch = pa.ipc.open_file(path / LARGE[0]).get_batch(0)
    with pa.ipc.new_file(path / LARGE[0], batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch)
    reseal(path)
    refused(path)
