"""The LLM that a model names: found again by its fingerprint."""

from collections.abc import Mapping
from typing import Any

from encoders.llm import FrozenLLM
from schemas.errors import CompatibilityError, NotFoundError
from store.home import Home
from store.models import Models


def described_llm(home: Home, about: Mapping[str, Any]) -> FrozenLLM:
    """The LLM of a description (``FrozenLLM.describe``): one made from the home by its hash, another by its directory or id.

    Raises:
        ConfigError: no such model any more.
        CompatibilityError: a model is there, with other weights, tokenizer, prompt or neutral prefix.
    """
    fingerprint = str(about["fingerprint"])
    try:
        model = str(Models(home).directory(fingerprint))
    except NotFoundError:
        model = str(about["model"])
    llm = FrozenLLM.load(home.config.llm.model_copy(update={"model": model, "prompt": about["prompt"]}))
    if llm.fingerprint != fingerprint:
        raise CompatibilityError(
            f"the LLM at {model} has changed: it was {fingerprint[:12]}, now it is {llm.fingerprint[:12]}",
            where=home.uri,
            mend="put the old one back, or tapstate train (a new line)",
        )
    return llm
