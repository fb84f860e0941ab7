"""Engines call a shard function on descriptors, here or elsewhere, and do nothing else.

A shard function keeps its manifest where its caller finds it (``pipelines.stages``), so an engine brings nothing back: what a Beam
runner can do with collected values differs from runner to runner. It may call a function twice for one descriptor, at once even.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from schemas.config import EngineConfig
from schemas.errors import ConfigError


class Engine(Protocol):
    """Calls a shard function on every descriptor."""

    def each(self, function: Callable[[Any], None], descriptors: Sequence[Any]) -> None:
        """Returns when every call has.

        Raises:
            EngineError: the engine itself gave up; some of the calls may have been made.
        """


class Local:
    """One shard after the other, in this process."""

    def each(self, function: Callable[[Any], None], descriptors: Sequence[Any]) -> None:
        for descriptor in descriptors:
            function(descriptor)


def new_engine(config: EngineConfig) -> Engine:
    """The configured engine.

    Raises:
        ConfigError: options that the engine does not take.
    """
    if config.name == "beam":
        from pipelines.beam import Beam

        return Beam(config.runner, config.options)
    if config.options:
        raise ConfigError(f"the local engine takes no options: {' '.join(config.options)}", where="engine", mend="add --engine beam")
    return Local()
