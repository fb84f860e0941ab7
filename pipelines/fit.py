"""Fit: train an aggregator and a head on a home's events, export the head, and open a line with them."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoders.checkpoint import load_aggregator, pack_aggregator, pack_head
from encoders.export import GOLDEN_FILE, GOLDEN_QUERY, export_head, export_query_encoder, query_embedding
from encoders.llm import FrozenLLM
from encoders.personalizer import Aggregator
from encoders.training import train
from encoders.tuning import Lessons, small_causal, tune
from pipelines.encode import encode_events
from pipelines.encoder import KnownEncoder
from pipelines.examples import build_examples, read_events, tuning_pairs, tuning_users
from pipelines.memory import keep_freed
from pipelines.meter import Meter, Silent
from schemas.config import Config, TapperConfig
from schemas.errors import CompatibilityError, NotFoundError
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


def fit(home: Home, config: Config, *, head_only: bool = False, meter: Meter | None = None) -> Fitted:
    """Train on the home's events; nothing is refreshed yet.

    Args:
        config: the home's configuration, perhaps with another seed, personalizer or LLM.
        head_only: fit another LLM's head to the newest line's aggregator: the states stay as they are, and so does the head that nightly
            bundles get. The bundle of the other LLM is made by ``publish`` with this head.

    Raises:
        InputError: not enough events, or none with a history.
        ConfigError: no such LLM.
        NotFoundError: there is no trained aggregator to fit a head to.
        CompatibilityError: the aggregator's states belong to one LLM.
        ParityError: an exported graph is off.
    """
    # Logits over an LLM's vocabulary are tens of megabytes at every step.
    keep_freed()
    meter, log, models = meter or Silent(), EventLog(home), Models(home)
    kept = _kept_aggregator(home, config) if head_only else None
    if kept:
        # The head's shape is the states', whatever the configuration says by now.
        section = kept[1].config
        if isinstance(section, TapperConfig):
            # The bridge is the head's own.
            section = section.model_copy(update={"bridge": config.tapper.bridge})
        config = config.model_copy(update={kept[1].name: section, "encoder": Lines(home).encoder(kept[0])})
    until = home.ingests.last()
    known = KnownEncoder(home, config.encoder)
    encode_events(log, known, meter, until=until)
    encoder = known.text
    events = read_events(log, config, until)
    cache = Embeddings(home, encoder.fingerprint, encoder.dim)
    own = not config.llm.model
    others = events.filter(~tuning_users())
    # A home so small that one side of the split is empty trains on everybody.
    examples = build_examples(others if own and others["user_id"].n_unique() > 10 else events, cache, config)
    llm = _own_llm(home, config, tuning_pairs(events, cache, config), meter) if own else FrozenLLM.load(config.llm)
    described = llm.describe()
    meter.start("train", config.train.steps, "steps")
    trained = train(
        examples, llm, config, lambda done, figures: meter.advance("train", done, **figures), aggregator=kept[1] if kept else None
    )
    meter.finish("train")
    meter.start("export", 3, "graphs")
    trained.aggregator.settle(trained.head, trained.adapter, described)
    name, files = (kept[0], {}) if kept else pack_aggregator(trained.aggregator, encoder.fingerprint, trained=True)
    bridge = trained.head.bridge
    about = {**described, "bridge": bridge.rank} if bridge else described
    head_name, head_files = pack_head(trained.head, trained.adapter, name, about, trained.metrics)
    head_files.update(bridge.files() if bridge else {})
    spec = trained.aggregator.spec
    for file, static in (("head.onnx", False), ("static_head.onnx", True)):
        head_files[file] = export_head(trained.head, spec, encoder.dim, static=static)
        meter.advance("export", 1)
    head_files["query_encoder.onnx"] = export_query_encoder(encoder, trained.adapter)
    head_files["tokenizer.json"] = encoder.tokenizer_json()
    head_files[GOLDEN_FILE] = json.dumps(query_embedding(encoder, trained.adapter, GOLDEN_QUERY)[0].tolist()).encode()
    meter.advance("export", 1)
    meter.finish("export")
    models.save(name, files)
    models.save(head_name, head_files)
    if not kept:
        models.use_head(name, head_name)
        Lines(home).open(name, config.encoder, reason=f"trained against {described['model']}, seed {config.seed}")
    return Fitted(name, head_name, described, trained.metrics)


def _kept_aggregator(home: Home, config: Config) -> tuple[str, Aggregator]:
    """Hash and modules of the newest line's aggregator, for a head of another LLM."""
    name = Lines(home).newest()
    if name is None:
        raise NotFoundError("no aggregator to fit a head to", where=home.uri, mend="tapstate train, then train --head-only")
    aggregator = load_aggregator(Models(home).directory(name), KnownEncoder(home, Lines(home).encoder(name)).fingerprint)
    if aggregator.name != config.personalizer:
        raise CompatibilityError(
            f"the newest line's aggregator is of {aggregator.name}, not of {config.personalizer}",
            where=home.uri,
            mend=f"train --head-only --personalizer {aggregator.name}, or tapstate train",
        )
    if aggregator.needs_llm:
        raise CompatibilityError(
            f"{aggregator.name}'s learned rows belong to LLM {aggregator.described['fingerprint'][:12]}: no other head fits its states",
            where=home.uri,
            mend="tapstate train --llm OTHER (a new line), or use tide, pplug, or tapper.row = false",
        )
    return name, aggregator


def _own_llm(home: Home, config: Config, lessons: Lessons, meter: Meter) -> FrozenLLM:
    """The LLM made from the home's events: the one made before, or a new one, kept under ``models``."""
    models = Models(home)

    def loaded(name: str) -> FrozenLLM:
        return FrozenLLM.load(config.llm.model_copy(update={"model": str(models.directory(name))}))

    held = home.objects.get("current/llm")
    if held:
        try:
            llm = loaded(held.decode())
        except NotFoundError:
            pass
        else:
            if llm.fingerprint != held.decode():
                # Under other prompts it is another LLM, which states and heads name by its own hash.
                models.save(llm.fingerprint, {path.name: path.read_bytes() for path in models.directory(held.decode()).iterdir()})
            return loaded(llm.fingerprint)
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
    return loaded(name)
