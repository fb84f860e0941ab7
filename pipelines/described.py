"""Models that a home names, ready to run: an aggregator with the LLM that it describes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from encoders.checkpoint import load_aggregator
from encoders.personalizer import Aggregator
from schemas.errors import CompatibilityError, NotFoundError
from store.home import Home
from store.models import Models

if TYPE_CHECKING:
    from encoders.llm import FrozenLLM


def open_aggregator(home: Home, name: str, encoder: str) -> Aggregator:
    """The aggregator ``name``, with its LLM attached where ``update`` runs one.

    Raises:
        NotFoundError: no such aggregator.
        ConfigError: its LLM is not there any more.
        CompatibilityError: it was made with another text encoder, or its LLM has changed.
        CorruptError: weights or a configuration that are not what they should be.
    """
    aggregator = load_aggregator(Models(home).directory(name), encoder)
    if aggregator.needs_llm:
        aggregator.attach(described_llm(home, aggregator.described))
    return aggregator


def described_llm(home: Home, about: Mapping[str, Any]) -> "FrozenLLM":
    """The LLM of a description (``FrozenLLM.describe``): one made from the home by its hash, another by its directory or id.

    Raises:
        ConfigError: no such model any more.
        CompatibilityError: a model is there, with other weights, tokenizer, prompt or neutral prefix.
    """
    # Here, not above: most workers need neither transformers nor an LLM, and both take seconds to import.
    from encoders.llm import FrozenLLM

    fingerprint = str(about["fingerprint"])
    try:
        model = str(Models(home).directory(fingerprint))
    except NotFoundError:
        model = str(about["model"])
    # Descriptions from before there was a choice do not name it, and those without prompts of tasks do not either.
    kept = {"prompt": about["prompt"], "prompts": about.get("prompts", {}), "precision": about.get("precision", "float32")}
    llm = FrozenLLM.load(home.config.llm.model_copy(update={"model": model, **kept}))
    if llm.fingerprint != fingerprint:
        raise CompatibilityError(
            f"the LLM at {model} has changed: it was {fingerprint[:12]}, now it is {llm.fingerprint[:12]}",
            where=home.uri,
            mend="put the old one back, or tapstate train (a new line)",
        )
    return llm
