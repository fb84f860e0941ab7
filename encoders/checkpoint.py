"""Checkpoints: safetensors and JSON, named by the hash of what they hold."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import nn

from encoders.adapter import QueryAdapter
from encoders.personalizer import Aggregator, Head
from encoders.registry import aggregator_from, head_from
from schemas.errors import CompatibilityError, CorruptError
from schemas.keys import content_hash

WEIGHTS = "weights.safetensors"


def pack_aggregator(aggregator: Aggregator, encoder: str, *, trained: bool) -> tuple[str, dict[str, bytes]]:
    """Hash and files of an aggregator; ``encoder`` is the text encoder's fingerprint."""
    about = {"encoder": encoder, "trained": trained, "spec": aggregator.spec.to_json()}
    return _pack("aggregator.json", {**aggregator.configuration(), **about}, aggregator)


def load_aggregator(directory: Path, encoder: str | None = None) -> Aggregator:
    """The aggregator at ``directory``.

    Raises:
        CompatibilityError: it was made with another text encoder than ``encoder``.
        CorruptError: weights or a configuration that are not what they should be.
    """
    configuration = _read(directory / "aggregator.json")
    with _fitting(directory):
        made_with = str(configuration["encoder"])
        aggregator = aggregator_from(configuration)
    if encoder is not None and made_with != encoder:
        raise CompatibilityError(
            f"aggregator {directory.name[:12]} was made with encoder {made_with[:12]}, the one found is encoder {encoder[:12]}",
            where=str(directory),
            mend="put that encoder's model back where it was (encoder.* of config.toml; tapstate lines), or run: tapstate train",
        )
    _check(directory, "aggregator.json")
    _load(aggregator, directory)
    return aggregator


def pack_head(
    head: Head, adapter: QueryAdapter, aggregator: str, llm: Mapping[str, Any], metrics: Mapping[str, Any]
) -> tuple[str, dict[str, bytes]]:
    """Hash and files of a head with its query adapter; it names its aggregator and its LLM."""
    configuration = {**head.configuration(), "aggregator": aggregator, "llm": dict(llm), "metrics": dict(metrics)}
    return _pack("head.json", configuration, nn.ModuleDict({"head": head, "adapter": adapter}))


def load_head(directory: Path) -> tuple[Head, QueryAdapter, dict[str, Any]]:
    """Head, query adapter and configuration at ``directory``.

    Raises:
        CorruptError: weights or a configuration that are not what they should be.
    """
    configuration = _read(directory / "head.json")
    _check(directory, "head.json")
    with _fitting(directory):
        head = head_from(configuration)
        adapter = QueryAdapter(configuration["query_dim"])
    _load(nn.ModuleDict({"head": head, "adapter": adapter}), directory)
    return head, adapter, configuration


def _pack(name: str, configuration: Mapping[str, Any], module: nn.Module) -> tuple[str, dict[str, bytes]]:
    weights = save({key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()})
    text = json.dumps(configuration, indent=1, sort_keys=True).encode()
    return content_hash(text, weights), {name: text, WEIGHTS: weights}


@contextmanager
def _fitting(directory: Path) -> Iterator[None]:
    """What fails in here is a checkpoint whose parts do not fit."""
    try:
        yield
    except Exception as error:
        raise CorruptError(f"weights and configuration do not fit: {error!r}", where=str(directory), mend="tapstate train") from error


def _check(directory: Path, name: str) -> None:
    """Whether a directory that is named by a hash holds the bytes of that hash."""
    if not re.fullmatch("[0-9a-f]{64}", directory.name):
        return
    with _fitting(directory):
        found = content_hash((directory / name).read_bytes(), (directory / WEIGHTS).read_bytes())
    if found != directory.name:
        raise CorruptError(
            f"the checkpoint's bytes have hash {found[:12]}, not {directory.name[:12]}",
            where=str(directory),
            mend="restore the folder from a backup of the home, or run: tapstate train",
        )


def _load(module: nn.Module, directory: Path) -> None:
    with _fitting(directory):
        module.load_state_dict(load_file(directory / WEIGHTS))
    module.eval().requires_grad_(False)


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CorruptError(f"unreadable checkpoint: {error}", where=str(path), mend="tapstate train") from error
    return found
