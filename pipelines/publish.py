"""Publish: a version and the head that fits it, as a bundle."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from encoders.adapter import QueryAdapter
from encoders.checkpoint import load_head
from encoders.export import query_embedding
from encoders.personalizer import Head
from encoders.text import TextEncoder
from pipelines.meter import Meter, Silent
from schemas.errors import CompatibilityError, NotFoundError
from schemas.records import VersionRecord
from schemas.states import StateBatch, StateSpec
from store.bundle import BundleShelf, seal, write_states
from store.home import Home, provenance
from store.lease import lease, unique
from store.models import Models
from store.purge import fenced
from store.states import States

#: Files of a head that a bundle carries as they are.
CARRIED = ("head.onnx", "static_head.onnx", "query_encoder.onnx", "tokenizer.json")
#: Users whose expected answers a bundle carries.
GOLDEN = 3
GOLDEN_QUERY = "what should come next"


def publish(
    home: Home, version: VersionRecord, encoder: TextEncoder, meter: Meter | None = None, *, head: str | None = None
) -> tuple[str, dict[str, Any]]:
    """Write the bundle of a version; returns its URI and its manifest.

    An erasure that comes meanwhile fences the states, and the bundle is written again without whom it took out.

    Args:
        head: hash of another head than the one in use, for another LLM; ``CURRENT`` stays where it is then.

    Raises:
        NotFoundError: no head was trained for the version's aggregator.
        CompatibilityError: the head in use names another aggregator, or ``encoder`` is not the version's.
    """
    with lease(home, unique("bundle"), f"the bundle of version {version.number}"):
        return _publish(home, version, encoder, meter or Silent(), head)


def bundle_name(home: Home, version: VersionRecord) -> str | None:
    """What the version's bundle with the head in use is called; None where no head was trained."""
    head = Models(home).current_head(version.aggregator)
    return f"v{version.number}-{head[:8]}" if head else None


def _publish(home: Home, version: VersionRecord, encoder: TextEncoder, meter: Meter, head_name: str | None) -> tuple[str, dict[str, Any]]:
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
    while True:
        since = states.mark()
        try:
            uri, sealed = _written(home, version, states, head_files, (module, adapter, configuration), encoder, name, meter)
        except OSError:
            # An erasure removes what is half built.
            if fenced(home.tables, states.name, since):
                continue
            raise
        if not fenced(home.tables, states.name, since):
            return uri, sealed


def _written(
    home: Home,
    version: VersionRecord,
    states: States,
    head_files: Path,
    fitted: tuple[Head, QueryAdapter, dict[str, Any]],
    encoder: TextEncoder,
    name: str,
    meter: Meter,
) -> tuple[str, dict[str, Any]]:
    module, adapter, configuration = fitted
    models = Models(home)
    spec = models.spec(version.aggregator)
    shelf = BundleShelf(home)
    workplace = shelf.workplace()
    try:
        meter.start("bundle", version.users, "users")
        files = write_states(workplace, states, spec, version, lambda n: meter.advance("bundle", n))
        for file in CARRIED:
            shutil.copyfile(head_files / file, workplace / file)
        golden = _golden(workplace, files, spec, module, query_embedding(encoder, adapter, GOLDEN_QUERY), version)
        (workplace / "golden.json").write_text(json.dumps(golden))
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
            "users": sum(file["users"] for file in files),
            "prefix": {
                "length": configuration["length"],
                "dim": configuration["llm_dim"],
                "rms": configuration["rms"],
                "gain": float(module.state_dict()["gain"]),
                "order": "[P; text]" if llm["kind"] == "seq2seq" else "[BOS; P; text]",
            },
            "states": {"spec": bundle_spec(spec).to_json(), "files": files},
            "query_encoder": {"dim": configuration["query_dim"]},
        }
        sealed = seal(workplace, manifest)
        uri = shelf.publish(workplace, f"v{version.number}-{name[:8]}", current=name == models.current_head(version.aggregator))
        meter.finish("bundle")
        return uri, sealed
    except BaseException:
        shutil.rmtree(workplace, ignore_errors=True)
        raise


def bundle_spec(spec: StateSpec) -> StateSpec:
    """The columns a bundle holds, in its types."""
    columns = tuple(replace(c, dtype=c.bundle_dtype or c.dtype, bundle_dtype=None) for c in spec.columns if c.head)
    return StateSpec(columns, spec.capacity)


def _golden(
    directory: Path, files: list[dict[str, Any]], spec: StateSpec, head: Head, query: torch.Tensor, version: VersionRecord
) -> dict[str, Any]:
    """Expected answers, by torch from the bundle's own bytes; whoever loads the bundle can compare."""
    now = int(version.as_of.timestamp())
    cases: list[dict[str, Any]] = []
    for index, file in enumerate(files):
        if not file["users"] or len(cases) >= 2 * GOLDEN:
            continue
        batch = pa.ipc.open_file(pa.memory_map(str(directory / file["name"]))).get_batch(0)
        for row in np.linspace(0, file["users"] - 1, min(GOLDEN, file["users"])).astype(int).tolist():
            state = StateBatch.from_arrow(batch, spec, bundle=True).take(np.array([row]), spec).head_inputs(spec)
            tensors = {key: torch.from_numpy(value) for key, value in state.items()}
            for text, embedding in ((None, None), (GOLDEN_QUERY, query)):
                with torch.no_grad():
                    prefix = head(embedding, torch.tensor([now]), tensors)[0]
                cases.append({"file": index, "row": row, "query": text, "now": now, "prefix": prefix.tolist()})
    return {"cases": cases}
