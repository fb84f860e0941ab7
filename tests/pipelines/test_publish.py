"""A published bundle answers as its torch head does, from few bytes a user."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoders.adapter import QueryAdapter
from encoders.checkpoint import pack_aggregator, pack_head
from encoders.export import export_head, export_query_encoder
from encoders.head import TideHead
from encoders.registry import new_aggregator
from encoders.text import TextEncoder
from flows.datasets import bundle as told_bundle
from pipelines.encoder import KnownEncoder
from pipelines.erase import Erasure
from pipelines.publish import publish
from schemas.config import Config, EncoderConfig, TideConfig
from schemas.errors import CompatibilityError, CorruptError, InputError, NotFoundError
from schemas.records import ErasureRecord, VersionRecord
from store.bundle import BundleShelf
from store.client import Bundle
from store.home import Home, provenance
from store.lines import Lines
from store.models import Models
from store.packing import Precision
from store.states import States

LENGTH, LLM_DIM = 3, 24
QUERIES = ["what now", "", "a much longer query about many things"]


@dataclass(frozen=True)
class Fitted:
    """Aggregator and head as training leaves them: names, files and the torch head."""

    encoder: TextEncoder
    head: TideHead
    aggregator: tuple[str, dict[str, bytes]]
    exported: tuple[str, dict[str, bytes]]


@pytest.fixture(scope="module")
def fitted(tiny_encoder: Path) -> Fitted:
    """An untrained aggregator and a head whose last layer is random, exported."""
    config = Config(encoder=EncoderConfig(model=str(tiny_encoder), max_tokens=32))
    encoder = TextEncoder(config.encoder)
    aggregator, dim = new_aggregator(config, encoder.dim), encoder.dim
    name, files = pack_aggregator(aggregator, encoder.fingerprint, trained=False)
    torch.manual_seed(1)
    head, adapter = TideHead(config.tide, dim, LLM_DIM, torch.randn(LENGTH, LLM_DIM), 0.7, False), QueryAdapter(dim)
    torch.nn.init.normal_(head.out.weight, std=0.3)
    torch.nn.init.normal_(adapter.up.weight, std=0.3)
    head.bind(aggregator)
    head.eval().requires_grad_(False)
    head_name, head_files = pack_head(head, adapter, name, {"model": "tiny", "kind": "causal", "fingerprint": "f" * 64}, {})
    for file, static in (("head.onnx", False), ("static_head.onnx", True)):
        head_files[file] = export_head(head, aggregator.spec, dim, static=static)
    head_files["query_encoder.onnx"] = export_query_encoder(encoder, adapter)
    head_files["tokenizer.json"] = encoder.tokenizer_json()
    return Fitted(encoder, head, (name, files), (head_name, head_files))


@pytest.fixture
def made(
    fitted: Fitted,
    new_home: Callable[..., Home],
    put: Callable[..., object],
    night: Callable[..., VersionRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Home, VersionRecord, KnownEncoder, TideHead]:
    """A version of 70 users over three files of states, with the default shape of states."""
    monkeypatch.setattr("store.bundle.FILE_USERS", 30)
    home = new_home("home", shard_events=4096, tide=TideConfig())
    models = Models(home)
    for name, files in (fitted.aggregator, fitted.exported):
        models.save(name, files)
    Lines(home).open(fitted.aggregator[0], home.config.encoder, reason="test")
    models.use_head(fitted.aggregator[0], fitted.exported[0])
    put(
        home,
        [
            {"user_id": f"u{u}", "ts": 1_700_000_000 + 977 * (u + i), "text": f"t {(u * i) % 97}", "target": "x" if i % 3 else None}
            for u in range(70)
            for i in range(1 + u * 2)
        ],
    )
    return home, night(home), KnownEncoder(home, home.config.encoder), fitted.head


@pytest.mark.slow
def test_a_bundle_from_end_to_end(made: tuple[Home, VersionRecord, KnownEncoder, TideHead]) -> None:
    home, version, encoder, head = made
    uri, manifest = publish(home, version, encoder)
    bundle = Bundle.open(Path(uri).parent)
    assert bundle.path == Path(uri)
    bundle.verify()
    assert (len(bundle), bundle.length, bundle.dim) == (70, LENGTH, LLM_DIM)
    files = manifest["states"]["files"]
    assert [len(files), sum(f["users"] for f in files)] == [3, 70]
    assert sum(manifest["files"][f["name"]]["bytes"] for f in files) <= 8192 * 70
    told = told_bundle(uri, manifest)
    assert (told.uri, told.version, told.rows) == (str(Path(uri).parent), Path(uri).name, 70)
    assert told.size == sum(file.stat().st_size for file in Path(uri).rglob("*") if file.is_file() and file.name != "manifest.json")
    assert {k: manifest[k] for k in ("version", "aggregator", "encoder", "users")} == {
        "version": 1, "aggregator": version.aggregator, "encoder": version.encoder, "users": 70
    }  # fmt: skip

    users, now = ["u69", "u0", "nobody", "u33"], int(version.as_of.timestamp()) + 86_400
    queries = [*QUERIES, "what now"]
    found = bundle.prefix(users, queries, now=now)
    assert found.status == ["known", "known", "unknown", "known"]
    state, known = bundle.states(users)
    assert known.tolist() == [True, True, False, True]
    tensors = {name: torch.from_numpy(array) for name, array in state.head_inputs(bundle.spec).items()}
    embeddings = torch.from_numpy(bundle.embed(queries))
    wanted = head(embeddings, torch.full((4,), now), tensors).numpy()
    rms = np.sqrt(np.mean(wanted**2))
    assert np.abs(found.prefix - wanted).max() <= 1e-4 * rms
    assert np.abs(found.prefix[0] - found.prefix[3]).max() > 0.01 * rms, "two users differ"
    plain = encoder.encode(queries).astype(np.float32)
    assert np.abs(bundle.embed(queries) - plain).max() > 1e-3, "the adapter is in the query encoder"
    static = bundle.static_prefix(["u69", "nobody"], now=now).prefix
    assert static[0].tobytes() == bundle.static_prefix(["u1", "u69"], now=now + 9).prefix[1].tobytes()
    assert static[1].tobytes() == bundle.static_prefix(["somebody else"], now=now).prefix[0].tobytes()


@pytest.mark.slow
def test_a_bundle_holds_what_the_store_holds(made: tuple[Home, VersionRecord, KnownEncoder, TideHead]) -> None:
    home, version, encoder, _ = made
    bundle = Bundle.open(publish(home, version, encoder)[0])
    table = States(home, version.aggregator, Models(home).spec(version.aggregator)).read(version.runs)
    users = table.column("user_id").to_pylist()
    state, known = bundle.states(users)
    assert known.all()
    np.testing.assert_allclose(
        state.columns["slot_sum"].reshape(len(users), -1), np.array(table.column("slot_sum").to_pylist()), rtol=1e-3, atol=1e-3
    )
    assert state.columns["window_time"].tolist() == [t for row in table.column("window_time").to_pylist() for t in row]
    lengths = dict(zip(users, np.diff(state.offsets).tolist(), strict=True))
    assert lengths == {f"u{u}": min(64, 1 + 2 * u) for u in range(70)}
    assert "window_key" not in state.columns


def test_published_twice_while_open(made: tuple[Home, VersionRecord, KnownEncoder, TideHead]) -> None:
    """An open reader keeps answering while a bundle is published; nothing of the building is left."""
    home, version, encoder, _ = made
    uri, _ = publish(home, version, encoder)
    reader = Bundle.open(uri)
    before = reader.static_prefix(["u5"], now=0).prefix
    again, _ = publish(home, version, encoder)
    assert (reader.static_prefix(["u5"], now=0).prefix == before).all()
    Bundle.open(uri).verify()
    assert sorted(p.name for p in Path(uri).parent.iterdir()) == sorted({"CURRENT", Path(uri).name, Path(again).name})
    assert Bundle.open(Path(uri).parent).path == Path(again)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_deltas_answer_as_the_full_bundle(
    made: tuple[Home, VersionRecord, KnownEncoder, TideHead],
    put: Callable[..., object],
    night: Callable[..., VersionRecord],
    precision: Precision,
) -> None:
    """Changed, new, vanished and erased users, over two deltas: bit for bit the prefixes of the full bundle."""
    home, first, encoder, _ = made
    with pytest.raises(InputError, match="nothing is served"):
        publish(home, first, encoder, precision=precision, delta=True)
    publish(home, first, encoder, precision=precision)
    sizes, version, everyone = [], first, [f"u{u}" for u in range(75)]
    for number in (0, 1):
        gone = [{"user_id": f"u{u}", "event_id": f"e{u}", "ts": 1_700_000_000, "text": "soon gone"} for u in (71, 72)]
        later = [{"user_id": f"u{u}", "ts": 1_700_900_000 + number, "text": f"later {u}"} for u in (3, 70, 40 + number)]
        ops = gone if number == 0 else [{**row, "op": "delete"} for row in gone]
        put(home, [*later, *ops], name=f"later-{number}.jsonl")
        version = night(home)
        uri, manifest = publish(home, version, encoder, precision=precision, delta=True)
        sizes.append(sum(file["bytes"] for file in manifest["files"].values()))
        assert manifest["base"]["files"] == ["head.onnx", "static_head.onnx", "query_encoder.onnx", "tokenizer.json"]
        assert (manifest["layers"], sum(f["users"] for f in manifest["states"]["files"])) == (number + 2, [5, 3][number])
    shelf = BundleShelf(home)
    erasure = {**provenance(), "number": 1, "kind": "erase", "bundle_tags": shelf.tags(["u9"]), "reason": "test"}
    assert home.erasures.append(1, ErasureRecord.model_validate(erasure))
    uri, _ = publish(home, version, encoder, precision=precision, delta=True)
    stacked = Bundle.open(uri)
    stacked.verify()
    full_uri, manifest = publish(home, version, encoder, precision=precision, delta=False)
    full = Bundle.open(full_uri)
    full.verify()
    assert manifest["base"] is None
    assert len(full) == len(stacked) == 71
    now = int(version.as_of.timestamp()) + 9
    answers = [bundle.prefix(everyone, ["q"] * 75, now=now) for bundle in (stacked, full)]
    # Only the record of an erasure was made: the store, and so the full bundle, still has u9.
    alike = [u for u in range(75) if u != 9]
    assert (answers[0].prefix[alike] == answers[1].prefix[alike]).all()
    assert answers[0].status[9] == "erased"
    assert [answers[0].status[u] for u in alike] == [answers[1].status[u] for u in alike]
    assert [u for u in alike if answers[1].status[u] == "unknown"] == [71, 72, 73, 74]
    assert (stacked.prefix(["u9"], ["q"], now=now).prefix == full.prefix(["nobody"], ["q"], now=now).prefix).all()
    assert max(sizes) < sum(file["bytes"] for file in manifest["files"].values()) / 3
    # Nothing that stands on another line of versions.
    other = "int8" if precision == "float16" else "float16"
    with pytest.raises(InputError, match="precision"):
        publish(home, version, encoder, precision=other, delta=True)
    rebuilt = night(home, full=True)
    with pytest.raises(InputError, match="does not add to"):
        publish(home, rebuilt, encoder, precision=precision, delta=True)


def test_what_does_not_belong_together(made: tuple[Home, VersionRecord, KnownEncoder, TideHead]) -> None:
    home, version, encoder, _ = made
    models = Models(home)
    head = models.current_head(version.aggregator)
    assert head
    stranger = version.model_copy(update={"aggregator": "f" * 64})
    with pytest.raises(NotFoundError, match="tapstate train"):
        publish(home, stranger, encoder)
    models.use_head("f" * 64, head)
    with pytest.raises(CompatibilityError, match=version.aggregator[:12]):
        publish(home, stranger, encoder)
    weights = Path(home.uri) / "models" / head / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CorruptError, match=r"weights|hash"):
        publish(home, version, encoder)
    shelf = Path(home.uri) / "bundles"
    assert not shelf.exists() or not any(shelf.iterdir())


@pytest.mark.slow
def test_erased_users_leave_the_bundles(made: tuple[Home, VersionRecord, KnownEncoder, TideHead], monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle is written anew without them, its golden answers too; one that is being written begins again."""
    home, version, encoder, _ = made
    uri, manifest = publish(home, version, encoder)
    old, unused = Bundle.open(Path(uri).parent), Bundle.open(Path(uri).parent)
    assert 0 in {case["row"] for case in json.loads((Path(uri) / "golden.json").read_text())["cases"]}
    table = States(home, version.aggregator, Models(home).spec(version.aggregator)).read(version.runs, ["user_id"])
    first, second = str(table.column("user_id")[0]), "u33"
    before, _ = old.states([first, second, "u5"])
    assert old.prefix([first], ["x"]).status == ["known"]
    receipt = Erasure(home, [first]).erase("asked for")
    assert receipt.proof.hits == ()
    assert any(manifest["bundle_id"][:12] in line for line in receipt.cannot_undo)
    new = Bundle.open(Path(uri).parent)
    assert (new.path.name, new.manifest["bundle_id"] != manifest["bundle_id"], Path(uri).exists()) == (f"{Path(uri).name}-e1", True, False)
    new.verify()
    assert (len(new), new.prefix([first], ["x"]).status) == (69, ["erased"])
    states, known = new.states([second, "u5"])
    assert known.all()
    wanted = before.take(np.array([1, 2]), old.spec)
    for name, array in wanted.columns.items():
        np.testing.assert_array_equal(states.columns[name], array)
    assert old.prefix([first], ["x"]).status == ["known"]
    with pytest.raises(NotFoundError, match="CURRENT"):
        unused.prefix([first], ["x"])

    import pipelines.publish as module

    real, erased = module.write_states, []

    def late(*arguments: Any) -> Any:
        made = real(*arguments)
        if not erased:
            erased.append(Erasure(Home(home.uri), [second]).erase("asked for"))
        return made

    monkeypatch.setattr(module, "write_states", late)
    remade, _ = publish(home, version, encoder)
    bundle = Bundle.open(Path(uri).parent)
    bundle.verify()
    assert (len(bundle), bundle.prefix([second], ["x"]).status) == (68, ["erased"])
    assert sorted(path.name for path in Path(uri).parent.iterdir()) == sorted(["CURRENT", Path(remade).name, f"{Path(uri).name}-e2"])
