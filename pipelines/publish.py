"""Publish: a version and the head that fits it, as a full bundle or as a delta on the one that is served now."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from encoders.adapter import QueryAdapter
from encoders.checkpoint import load_head
from encoders.export import GOLDEN_FILE, GOLDEN_QUERY, query_embedding
from encoders.personalizer import Head
from pipelines.encoder import KnownEncoder
from pipelines.meter import Meter, Silent
from schemas.errors import CompatibilityError, InputError, NotFoundError
from schemas.records import VersionRecord
from schemas.states import StateBatch, StateSpec
from store.bundle import BundleShelf, seal, write_states
from store.home import Home, provenance
from store.lease import lease, unique
from store.manifest import FORMAT, model_files
from store.models import Models
from store.packing import Precision, bundle_spec, unpack
from store.purge import fenced
from store.states import States
from store.versions import counts

#: Users whose expected answers a bundle carries, beside the unknown user's.
GOLDEN = 2


def publish(
    home: Home,
    version: VersionRecord,
    encoder: KnownEncoder,
    meter: Meter | None = None,
    *,
    precision: Precision | None = None,
    delta: bool | None = None,
    head: str | None = None,
) -> tuple[str, dict[str, Any]]:
    """Write the bundle of a version; returns its URI and its manifest.

    An erasure that comes meanwhile fences the states, and the bundle is written again without whom it took out.

    Args:
        precision: of the states; as configured by default.
        delta: only what changed since the bundle that ``CURRENT`` names; by default where ``bundle.layers`` leaves room for it.
        head: hash of another head than the one in use, for another LLM: a full bundle, and ``CURRENT`` stays where it is.

    Raises:
        NotFoundError: no head was trained for the version's aggregator.
        CompatibilityError: the head in use names another aggregator, or ``encoder`` is not the version's.
        InputError: a delta is asked for and nothing served now can be its base.
    """
    precision = precision or home.config.bundle.states
    with lease(home, unique("bundle"), f"the bundle of version {version.number}"):
        return _publish(home, version, encoder, meter or Silent(), head, precision, delta)


def shelved(home: Home, version: VersionRecord) -> bool:
    """Whether a bundle of the version with the head in use is on the shelf, or no head fits that one could be made with."""
    head = Models(home).current_head(version.aggregator)
    begins = f"v{version.number}-{(head or '')[:8]}"
    whole = (home.objects.get(f"bundles/{name}/manifest.json") for name in home.objects.names("bundles") if name.startswith(begins))
    return head is None or any(data is not None for data in whole)


def _publish(
    home: Home,
    version: VersionRecord,
    encoder: KnownEncoder,
    meter: Meter,
    head_name: str | None,
    precision: Precision,
    delta: bool | None,
) -> tuple[str, dict[str, Any]]:
    models = Models(home)
    name = head_name or models.current_head(version.aggregator)
    if name is None:
        raise NotFoundError(
            f"no head fits aggregator {version.aggregator[:12]}",
            where=f"version {version.number}",
            mend="tapstate train, then tapstate refresh",
        )
    if encoder.fingerprint != version.encoder:
        raise CompatibilityError(
            f"version {version.number} was made with encoder {version.encoder[:12]}, the one found is encoder {encoder.fingerprint[:12]}",
            where=home.uri,
            mend="put that encoder's model back where it was: tapstate lines tells where",
        )
    head_files = models.directory(name)
    module, adapter, configuration = load_head(head_files)
    if configuration["aggregator"] != version.aggregator:
        raise CompatibilityError(
            f"head {name[:12]} fits aggregator {configuration['aggregator'][:12]}, version {version.number} has {version.aggregator[:12]}",
            where=home.uri,
            mend="tapstate train",
        )
    states = States(home, version.aggregator, models.spec(version.aggregator))
    stale: list[str] = []
    while True:
        since = states.mark()
        try:
            uri, sealed = _written(
                home, version, states, head_files, (module, adapter, configuration), encoder, name, meter, precision, delta
            )
        except OSError:
            # An erasure removes what is half built.
            if fenced(home.tables, states.name, since):
                continue
            raise
        for old in stale:
            BundleShelf(home).remove(old)
        if not fenced(home.tables, states.name, since):
            return uri, sealed
        stale.append(uri.rsplit("/", 1)[-1])


def _written(
    home: Home,
    version: VersionRecord,
    states: States,
    head_files: Path,
    fitted: tuple[Head, QueryAdapter, dict[str, Any]],
    encoder: KnownEncoder,
    name: str,
    meter: Meter,
    precision: Precision,
    delta: bool | None,
) -> tuple[str, dict[str, Any]]:
    module, adapter, configuration = fitted
    models = Models(home)
    spec = models.spec(version.aggregator)
    packed = bundle_spec(spec, precision)
    shelf = BundleShelf(home)
    base, runs = None, version.runs
    in_use = name == models.current_head(version.aggregator)
    if delta is not False and in_use:
        base, why = _base(home, shelf.current(), version, packed, home.config.bundle.layers if delta is None else None)
        if delta and base is None:
            raise InputError(f"no delta on what is served now: {why}", where=f"{shelf.uri}/CURRENT", mend="tapstate bundle --full")
    if base is not None:
        runs = version.runs[len(_runs(home, base["version"])) :]
    with shelf.workplace() as workplace:
        meter.start("bundle", version.users if base is None else None, "users")
        expected = version.users if base is None else version.users_changed
        erased = shelf.erased()
        files = write_states(workplace, states, spec, packed, runs, expected, erased, lambda n: meter.advance("bundle", n))
        model = model_files(configuration["llm"])
        left = model if base is not None and base["head"] == name else ()
        for file in sorted(set(model) - set(left)):
            shutil.copyfile(head_files / file, workplace / file)
        query = _golden_query(head_files, encoder, adapter)
        (workplace / "golden.json").write_text(json.dumps({"cases": _golden(workplace, files, packed, module, query, version)}))
        tasks = configuration.get("tasks")
        made = provenance()
        llm = configuration["llm"]
        created = datetime.now(UTC)
        manifest = {
            "created_at": str(made["created_at"]),
            "code": made["code"],
            "version": version.number,
            "aggregator": version.aggregator,
            "encoder": version.encoder,
            "head": name,
            "llm": llm,
            "as_of": int(version.as_of.timestamp()),
            "valid_until": int((max(created, version.as_of) + timedelta(days=home.config.bundle.valid_days)).timestamp()),
            "users": counts(home, version)[0],
            "prefix": {
                "length": configuration["length"],
                "dim": configuration["llm_dim"],
                "rms": configuration["rms"],
                "gain": float(module.state_dict()["gain"]),
                "order": "[P; text]" if llm["kind"] == "seq2seq" else "[BOS; P; text]",
            },
            "states": {"precision": precision, "spec": packed.to_json(), "files": files},
            "query_encoder": {"dim": configuration["query_dim"]},
            **({"tasks": tasks} if tasks else {}),
            "erased_salt": shelf.salt,
            "layers": 1 if base is None else base["layers"] + 1,
            "base": None if base is None else {"name": base["name"], "bundle_id": base["bundle_id"], "files": list(left)},
        }
        sealed = seal(workplace, manifest)
        # Named by content: nothing that a delta or an open reader stands on is ever replaced.
        uri = shelf.publish(workplace, f"v{version.number}-{name[:8]}-{sealed['bundle_id'][:8]}", current=in_use)
        meter.finish("bundle")
        return uri, sealed


def _base(
    home: Home, served: dict[str, Any] | None, version: VersionRecord, packed: StateSpec, layers: int | None
) -> tuple[dict[str, Any] | None, str]:
    """The manifest that a delta of ``version`` can stand on, or why there is none."""
    if served is None:
        return None, "nothing is served yet"
    if served.get("format") != FORMAT:
        return None, "it is of another format"
    if layers is not None and served["layers"] >= layers:
        return None, f"{layers} bundles lie stacked, as bundle.layers allows"
    if "withdrawn" in served:
        return None, "users were taken out of it"
    if served["aggregator"] != version.aggregator or StateSpec.from_json(served["states"]["spec"]) != packed:
        return None, "it has another aggregator or precision"
    runs = _runs(home, served["version"])
    if not runs or version.runs[: len(runs)] != runs:
        return None, f"version {version.number} does not add to version {served['version']}"
    return served, ""


def _runs(home: Home, number: int) -> tuple[int, ...]:
    record = home.versions.get(number)
    return record.runs if record else ()


def _golden(
    directory: Path, files: list[dict[str, Any]], packed: StateSpec, head: Head, query: torch.Tensor, version: VersionRecord
) -> list[dict[str, Any]]:
    """Expected answers, by torch from the bundle's own bytes; whoever loads the bundle can compare.

    Of a head with tasks, one is of the unknown user without a task, the others of one task or another.
    """
    now, users = int(version.as_of.timestamp()), sum(file["users"] for file in files)
    cases: list[dict[str, Any]] = []
    rows = [None, *sorted(set(np.linspace(0, users - 1, GOLDEN).astype(int).tolist()))] if users else [None]
    tasks = head.instructions.tasks if head.instructions else ()
    asked: list[tuple[int | None, str | None]] = [(row, None) for row in rows]
    if tasks:
        asked = [(None, None), *((row, tasks[i % len(tasks)]) for i, row in enumerate(rows))]
    for row, task in asked:
        if row is None:
            state = StateBatch.empty(1, packed)
        else:
            ends = np.cumsum([file["users"] for file in files])
            number = int(np.searchsorted(ends, row, side="right"))
            batch = pa.ipc.open_file(pa.memory_map(str(directory / files[number]["name"]))).get_batch(0)
            place = row - int(ends[number]) + files[number]["users"]
            state = unpack(batch, packed).take(np.array([place]), packed)
        tensors = {key: torch.from_numpy(value) for key, value in state.head_inputs(packed).items()}
        asks = head.instructions.numbers([task]) if head.instructions else None
        for text, embedding in ((None, None), (GOLDEN_QUERY, query)):
            with torch.no_grad():
                prefix = head(embedding, torch.tensor([now]), tensors, asks)[0]
            vector = None if embedding is None else _numbers(embedding[0])
            case = {"row": row, "query": text, "query_embedding": vector, "now": now, "prefix": [_numbers(v) for v in prefix]}
            cases.append({**case, "task": task} if tasks else case)
    return cases


def _golden_query(head_files: Path, encoder: KnownEncoder, adapter: QueryAdapter) -> torch.Tensor:
    """The embedding of the golden query that was kept with the head; heads of older homes have none."""
    path = head_files / GOLDEN_FILE
    if path.is_file():
        return torch.tensor([json.loads(path.read_text())])
    return query_embedding(encoder.text, adapter, GOLDEN_QUERY)


def _numbers(vector: torch.Tensor) -> list[float]:
    """Enough digits for a float32, and no more."""
    return [float(f"{number:.9g}") for number in vector.tolist()]
