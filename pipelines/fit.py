"""Fit: train an aggregator and a head on a home's events, export the head, and open a line with them."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoders.checkpoint import pack_aggregator, pack_head
from encoders.export import export_head, export_query_encoder
from encoders.llm import FrozenLLM
from encoders.text import TextEncoder
from encoders.training import train
from encoders.tuning import Lessons, small_causal, tune
from pipelines.encode import encode_events
from pipelines.engines import Local
from pipelines.examples import build_examples, read_events, tuning_pairs, tuning_users
from pipelines.meter import Meter, Silent
from schemas.config import Config
from schemas.errors import NotFoundError
from store.embeddings import Embeddings
from store.events import EventLog
from store.home import Home
from store.lines import Lines
from store.models import Models

#: Learning rate of the LLM that is made on the spot, from random weights.
TUNING_RATE = 3e-3
#: Prompts and targets that its vocabulary is learned from.
VOCABULARY_TEXTS = 20_000


@dataclass(frozen=True)
class Fitted:
    """What ``fit`` made, by hash, and what training measured on its held-out slice."""

    aggregator: str
    head: str
    llm: dict[str, Any]
    metrics: dict[str, Any]


def fit(home: Home, config: Config, *, meter: Meter | None = None) -> Fitted:
    """Train on the home's events; nothing is refreshed yet.

    Args:
        config: the home's configuration, perhaps with another seed or LLM.

    Raises:
        InputError: not enough events, or none with a history.
        ConfigError: no such LLM.
        ParityError: an exported graph is off.
    """
    meter, log, models = meter or Silent(), EventLog(home), Models(home)
    until = home.ingests.last()
    encoder = TextEncoder(config.encoder)
    encode_events(log, encoder, Local(), meter, after=0, until=until)
    events = read_events(log, config, until)
    cache = Embeddings(home, encoder.fingerprint, encoder.dim)
    own = not config.llm.model
    others = events.filter(~tuning_users())
    # A home so small that one side of the split is empty trains on everybody.
    examples = build_examples(others if own and others["user_id"].n_unique() > 10 else events, cache, config)
    llm = _own_llm(home, config, tuning_pairs(events, cache, config), meter) if own else FrozenLLM.load(config.llm)
    meter.start("train", config.train.steps, "steps")
    trained = train(examples, llm, config, lambda done, figures: meter.advance("train", done, **figures))
    meter.finish("train")
    meter.start("export", 3, "graphs")
    name, files = pack_aggregator(trained.aggregator, encoder.fingerprint, trained=True)
    described = llm.describe()
    head_name, head_files = pack_head(trained.head, trained.adapter, name, described, trained.metrics)
    spec = trained.aggregator.spec
    for file, static in (("head.onnx", False), ("static_head.onnx", True)):
        head_files[file] = export_head(trained.head, spec, encoder.dim, static=static)
        meter.advance("export", 1)
    head_files["query_encoder.onnx"] = export_query_encoder(encoder, trained.adapter)
    head_files["tokenizer.json"] = encoder.tokenizer_json()
    meter.advance("export", 1)
    meter.finish("export")
    models.save(name, files)
    models.save(head_name, head_files)
    models.use_head(name, head_name)
    Lines(home).open(name, config.encoder, reason=f"trained against {described['model']}, seed {config.seed}")
    return Fitted(name, head_name, described, trained.metrics)


def _own_llm(home: Home, config: Config, lessons: Lessons, meter: Meter) -> FrozenLLM:
    """The LLM made from the home's events: the one made before, or a new one, kept under ``models``."""
    models = Models(home)
    held = home.objects.get("current/llm")
    if held:
        try:
            directory = models.directory(held.decode())
            return FrozenLLM.load(config.llm.model_copy(update={"model": str(directory)}))
        except NotFoundError:
            pass
    meter.start("tune LLM", config.train.llm_steps, "steps")
    llm = tune(
        lambda: small_causal([*lessons.prompts[:VOCABULARY_TEXTS], *lessons.targets[:VOCABULARY_TEXTS]]),
        lessons,
        config.llm,
        prefix_length=config.train.prefix_length,
        steps=config.train.llm_steps,
        learning_rate=TUNING_RATE,
        seed=config.seed,
        progress=lambda done, figures: meter.advance("tune LLM", done, **figures),
    )
    meter.finish("tune LLM")
    name = llm.fingerprint
    with tempfile.TemporaryDirectory() as place:
        llm.save(Path(place))
        models.save(name, {path.name: path.read_bytes() for path in Path(place).iterdir()})
    home.objects.put("current/llm", name.encode())
    return FrozenLLM.load(config.llm.model_copy(update={"model": str(models.directory(name))}))
