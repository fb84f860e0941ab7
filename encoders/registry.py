"""The personalizers by name: section of the configuration, aggregator, head. Nothing else asks which method it is."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from encoders.head import TideHead
from encoders.personalizer import Aggregator, Head
from encoders.pplug import PplugBank, PplugHead
from encoders.tapper import TapperBank, TapperHead
from encoders.tide import Tide
from schemas.config import Config, PplugConfig, Section, TapperConfig, TideConfig


@dataclass(frozen=True)
class Kind:
    """One personalizer's parts."""

    section: type[Section]
    aggregator: Any
    head: Any


KINDS = {
    "tide": Kind(TideConfig, Tide, TideHead),
    "pplug": Kind(PplugConfig, PplugBank, PplugHead),
    "tapper": Kind(TapperConfig, TapperBank, TapperHead),
}

#: What an aggregator of 0.1.0 does not say of itself, and what it was then.
EARLIER = {"tide": {"target_share": 0.0}}


def new_aggregator(config: Config, text_dim: int, prefix_shape: tuple[int, int] | None = None) -> Aggregator:
    """The configured personalizer's aggregator with weights drawn from the configured seed.

    Args:
        prefix_shape: ``(L, d_llm)`` when an LLM is at hand.

    Raises:
        CompatibilityError: its states belong to an LLM, and there is none.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        made: Aggregator = KINDS[config.personalizer].aggregator(getattr(config, config.personalizer), text_dim, prefix_shape)
        return made


def new_head(config: Config, query_dim: int, llm_dim: int, neutral: Tensor, rms: float, neutral_frozen: bool) -> Head:
    """The configured personalizer's head, weights from torch's generator; arguments as of ``Head``."""
    section = getattr(config, config.personalizer)
    made: Head = KINDS[config.personalizer].head(section, query_dim, llm_dim, neutral, rms, neutral_frozen)
    return made


def aggregator_from(configuration: dict[str, Any]) -> Aggregator:
    """An aggregator of the shape that ``Aggregator.configuration`` describes; its weights are yet to be loaded."""
    kind, name = KINDS[configuration["personalizer"]], configuration["personalizer"]
    shape = configuration.get("prefix_shape")
    section = kind.section(**{**EARLIER.get(name, {}), **configuration[name]})
    made: Aggregator = kind.aggregator(section, configuration["text_dim"], tuple(shape) if shape else None)
    made.restore(configuration)
    return made


def head_from(configuration: dict[str, Any]) -> Head:
    """A head of the shape that ``Head.configuration`` describes; its weights are yet to be loaded."""
    kind, name = KINDS[configuration["personalizer"]], configuration["personalizer"]
    dim = configuration["llm_dim"]
    made: Head = kind.head(
        kind.section(**configuration[name]),
        configuration["query_dim"],
        dim,
        torch.zeros(configuration["length"], dim),
        configuration["rms"],
        configuration["neutral_frozen"],
    )
    made.restore(configuration)
    return made
