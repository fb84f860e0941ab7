"""The client answers from a bundle's own files, tells users apart, and refuses damage."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_bundles import AS_OF, DEFAULT, UNTIL, USERS, answer, graph, make_bundle, reseal

from schemas.errors import CompatibilityError, ConfigError, CorruptError, InputError, NotFoundError
from store.client import Bundle


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A bundle of three files of states, the second one empty."""
    path = tmp_path / "bundles" / "v1"
    make_bundle(path, USERS)
    return path


def test_each_user_gets_their_own(directory: Path) -> None:
    bundle = Bundle.open(directory)
    assert (len(bundle), bundle.length, bundle.dim) == (len(USERS), 1, 2)
    asked = [*reversed(USERS), "nobody", "u3", "U3", "u3 ", "nobody"]
    found = bundle.prefix(asked, query_embeddings=np.full((len(asked), 2), 0.5, np.float32), now=UNTIL)
    assert found.status == ["known"] * len(USERS) + ["unknown", "known", "unknown", "unknown", "unknown"]
    for user, prefix in zip(asked, found.prefix.tolist(), strict=True):
        assert prefix == (answer(user, 0.5) if user in USERS else [[-0.5, -0.5]])


def test_static_prefixes_do_not_depend_on_company_or_time(directory: Path) -> None:
    bundle = Bundle.open(directory)
    every = bundle.static_prefix(USERS, now=AS_OF)
    for user, prefix in zip(USERS, every.prefix, strict=True):
        alone = bundle.static_prefix([user], now=UNTIL + 1)
        assert alone.prefix[0].tobytes() == prefix.tobytes()
        assert prefix.tolist() == answer(user)


def test_expired_and_unknown_are_told_apart(directory: Path) -> None:
    bundle = Bundle.open(directory)
    late = bundle.static_prefix(["u1", "nobody"], now=UNTIL + 1)
    assert late.status == ["expired", "unknown"]
    assert late.prefix.tolist() == [answer("u1"), DEFAULT]
    assert bundle.static_prefix(["u1", "u2"], now=np.array([UNTIL, UNTIL + 1])).status == ["known", "expired"]
    assert bundle.static_prefix(["u1"]).status == ["expired"]
    assert bundle.static_prefix(["u1"], now=UNTIL).status == ["known"]


def test_nobody_asks(directory: Path) -> None:
    found = Bundle.open(directory).static_prefix([], now=AS_OF)
    assert found.prefix.shape == (0, 1, 2)
    assert found.status == []


def test_wrong_requests(directory: Path) -> None:
    bundle = Bundle.open(directory)
    with pytest.raises(InputError, match="2 users, 1 queries"):
        bundle.prefix(["u1", "u2"], query_embeddings=np.zeros((1, 2), np.float32))
    with pytest.raises(InputError, match="embeddings of shape"):
        bundle.prefix(["u1"], query_embeddings=np.zeros((1, 3), np.float32))
    with pytest.raises(InputError, match="one of the two"):
        bundle.prefix(["u1"])


def test_each_task_has_its_own_prefix(tmp_path: Path) -> None:
    make_bundle(tmp_path / "v1", USERS, tasks=["headline", "rating"])
    bundle = Bundle.open(tmp_path / "v1")
    bundle.verify()
    assert bundle.tasks == ("headline", "rating")
    assert "headline, rating" in repr(bundle)
    users = ["u3", "u4", "nobody"]
    plain = bundle.static_prefix(users, now=AS_OF).prefix
    assert plain[0].tolist() == answer("u3")
    for number, task in enumerate(bundle.tasks):
        assert (bundle.static_prefix(users, now=AS_OF, task=task).prefix == plain + 1000 * (number + 1)).all()
    mixed = bundle.static_prefix(users, now=AS_OF, task=["rating", None, "headline"])
    assert mixed.prefix[:2].tolist() == [answer("u3", task=1), answer("u4")]
    assert mixed.status == ["known", "known", "unknown"]
    embeddings = np.full((2, 2), 0.5, np.float32)
    found = bundle.prefix(["u3", "u4"], query_embeddings=embeddings, now=AS_OF, task="rating").prefix
    assert found.tolist() == [answer(user, 0.5, task=1) for user in ("u3", "u4")]
    assert bundle.prefix(["u3"], ["two words"], now=AS_OF).prefix.tolist() == [answer("u3", 2)]
    assert bundle.static_prefix([], now=AS_OF, task=[]).prefix.shape == (0, 1, 2)


def test_a_task_that_is_not_there(directory: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "v1", USERS, tasks=["headline", "rating"])
    bundle = Bundle.open(tmp_path / "v1")
    for task in ("ratings", ["rating", "ratings"], "", ["rating", 1], ["rating", ["rating"]]):
        with pytest.raises(InputError, match="there are headline, rating"):
            bundle.static_prefix(["u1", "u2"], task=task)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="there are headline"):
        bundle.static_prefix([], task="ratings")
    with pytest.raises(InputError, match="2 users, 1 tasks"):
        bundle.prefix(["u1", "u2"], ["a", "b"], task=["rating"])
    plain = Bundle.open(directory)
    assert plain.tasks == ()
    assert plain.static_prefix(["u1", "u2"], now=AS_OF, task=[None, None]).prefix.tolist() == [answer("u1"), answer("u2")]
    with pytest.raises(InputError, match="this bundle has none"):
        plain.prefix(["u1"], ["a"], task="rating")


def test_golden_answers_of_tasks_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "v1"
    make_bundle(path, USERS, tasks=["headline", "rating"])
    golden = json.loads((path / "golden.json").read_text())
    for task, said in (("headline", "other answers"), (None, "other answers"), ("ratings", "answer to nothing")):
        cases = [{**case, "task": task} if case["task"] else case for case in golden["cases"]]
        (path / "golden.json").write_text(json.dumps({"cases": cases}))
        reseal(path)
        with pytest.raises(CorruptError, match=said):
            Bundle.open(path).static_prefix(["u1"])
    (path / "golden.json").write_text(json.dumps(golden))
    # Names in the manifest and inputs of the graphs say the same, or nothing is answered.
    reseal(path, tasks=[])
    with pytest.raises(CorruptError, match="task"):
        Bundle.open(path).static_prefix(["u1"])


def test_current_names_the_bundle(directory: Path) -> None:
    shelf = directory.parent
    with pytest.raises(NotFoundError, match="tapstate bundle"):
        Bundle.open(shelf)
    (shelf / "CURRENT").write_text("v1\n")
    assert Bundle.open(shelf).path == directory
    (shelf / "CURRENT").write_text("v2")
    with pytest.raises(NotFoundError):
        Bundle.open(shelf)
    for name in ("../bundles/v1", "/etc", "..", ".", "", "v1\0"):
        (shelf / "CURRENT").write_text(name)
        with pytest.raises(CorruptError, match="CURRENT"):
            Bundle.open(shelf)


def test_verify(directory: Path) -> None:
    Bundle.open(directory).verify()


@pytest.mark.parametrize("name", ["golden.json", "tokenizer.json", "head.onnx", "static_head.onnx", "gone.arrow", "erased.arrow"])
def test_damaged_small_files_are_refused_at_open(directory: Path, name: str) -> None:
    data = bytearray((directory / name).read_bytes())
    data[-1] ^= 1
    (directory / name).write_bytes(data)
    with pytest.raises(CorruptError, match=name):
        Bundle.open(directory)
    (directory / name).unlink()
    with pytest.raises(CorruptError, match=name):
        Bundle.open(directory)


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove"])
@pytest.mark.parametrize("name", ["states/00002.arrow", "index.arrow"])
def test_damaged_large_files_give_no_answer(directory: Path, damage: str, name: str) -> None:
    path = directory / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes({"flip": data, "cut": data[:-100], "grow": data + b"x", "remove": b""}[damage])
    if damage == "remove":
        path.unlink()
    file = path.name.replace(".", r"\.")
    if damage != "flip":  # sizes are compared at once, bytes when they are first read
        with pytest.raises(CorruptError, match=file):
            Bundle.open(directory)
        return
    for act in (Bundle.verify, lambda bundle: bundle.static_prefix(USERS), Bundle.warm):
        bundle = Bundle.open(directory)
        for _ in range(2):
            with pytest.raises(CorruptError, match=file):
                act(bundle)
    bundle = Bundle.open(directory)
    for user in USERS:
        with pytest.raises(CorruptError, match=file):
            bundle.states([user])


def test_resealed_golden_answers_are_refused(directory: Path) -> None:
    """Hashes that fit do not make a wrong answer right; before the damage the same bundle is fine."""
    reseal(directory)
    Bundle.open(directory).verify()
    golden = json.loads((directory / "golden.json").read_text())
    golden["cases"][0]["prefix"][0][0] += 1
    (directory / "golden.json").write_text(json.dumps(golden))
    reseal(directory)
    with pytest.raises(CorruptError, match="golden"):
        Bundle.open(directory).verify()
    with pytest.raises(CorruptError, match="golden"):
        Bundle.open(directory).static_prefix(["u1"])


def test_resealed_heads_are_refused_before_any_answer(directory: Path) -> None:
    """A head that gives other answers, one of another LLM's width, one that is no graph, and two that were swapped."""
    manifest = json.loads((directory / "manifest.json").read_text())
    for name, data, what in (
        ("static_head.onnx", graph(static=False), "reads"),
        ("head.onnx", graph(static=True), "reads"),
        ("head.onnx", graph(static=False).replace(b"Add", b"Sub"), "golden"),
        ("head.onnx", b"no graph", "no graph"),
        ("head.onnx", b"", "no graph"),
        ("query_encoder.onnx", graph(static=False), "token ids"),
    ):
        before = (directory / name).read_bytes()
        (directory / name).write_bytes(data)
        reseal(directory)
        bundle = Bundle.open(directory)
        ask = bundle.static_prefix if name == "static_head.onnx" else lambda users, bundle=bundle: bundle.prefix(users, ["two words"])
        with pytest.raises(CorruptError, match=what):
            ask(["u1"])
        (directory / name).write_bytes(before)
    reseal(directory, prefix={**manifest["prefix"], "dim": 3})
    with pytest.raises(CorruptError, match="another LLM's head"):
        Bundle.open(directory).static_prefix(["u1"])
    reseal(directory, prefix=manifest["prefix"])
    Bundle.open(directory).verify()


def test_a_bundle_for_another_llm(directory: Path) -> None:
    for llm in ("tiny", "f" * 64, None):
        assert len(Bundle.open(directory, llm=llm)) == len(USERS)
    with pytest.raises(CompatibilityError, match="tiny"):
        Bundle.open(directory, llm="larger")
    with pytest.raises(ConfigError, match="NoSuchProvider"):
        Bundle.open(directory, ["NoSuchProvider", "CPUExecutionProvider"])


def test_one_user_or_many_the_same_states(directory: Path) -> None:
    bundle = Bundle.open(directory)
    asked = [*USERS, "nobody", "u7", "u7"]
    together, known = bundle.states(asked)
    assert known.tolist() == [True] * len(USERS) + [False, True, True]
    for place, user in enumerate(asked):
        alone, there = bundle.states([user])
        assert there.tolist() == [known[place]]
        some = slice(*together.offsets[place : place + 2])
        assert alone.offsets.tolist() == [0, some.stop - some.start]
        np.testing.assert_array_equal(alone.columns["mark"][0], together.columns["mark"][place])
        np.testing.assert_array_equal(alone.columns["item"], together.columns["item"][some])
        with pytest.raises(ValueError, match="read-only"):
            alone.columns["mark"][:] = 0
    for wrong in ([1], [None], ["\ud800"], ["u1", 2], ["u1", "\ud800"]):
        with pytest.raises(InputError, match="no text"):
            bundle.states(wrong)


@pytest.mark.parametrize("text", ["{", '{"format": 99}', "[]", '{"format": 1}'])
def test_a_manifest_that_is_none(directory: Path, text: str) -> None:
    (directory / "manifest.json").write_text(text)
    with pytest.raises(CorruptError):
        Bundle.open(directory)


def test_the_client_needs_little(directory: Path, spawn: Callable[..., subprocess.Popen[str]]) -> None:
    code = f"""
import sys
from store.client import Bundle
from store.live import Live
bundle = Bundle.open({str(directory)!r})
bundle.verify()
print(bundle.static_prefix(["u1"], now=0).status[0], *sorted({{name.split(".")[0] for name in sys.modules}}))
"""
    out, err = spawn("-c", code).communicate()
    status, *loaded = out.split()
    assert status == "known", err
    heavy = {"torch", "lance", "lancedb", "polars", "pydantic", "prefect", "apache_beam", "obstore", "transformers", "pandas"}
    assert not heavy & set(loaded)
    assert {"onnxruntime", "pyarrow", "numpy", "tokenizers"} <= set(loaded)
