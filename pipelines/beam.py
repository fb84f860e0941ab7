"""The Beam engine: ``Create | Reshuffle | ParDo`` on any runner by name. Descriptors travel, vectors never do."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import create_runner

from schemas.errors import ConfigError, EngineError


class Call(beam.DoFn):
    """Calls the shard function; puts nothing out.

    Args:
        function: pickled by reference to its module, so that a worker opens what it needs itself.
    """

    def __init__(self, function: Callable[[Any], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.function = function

    def process(self, element: Any) -> Iterable[None]:
        """One descriptor."""
        self.function(element)
        return ()


@dataclass(frozen=True)
class Beam:
    """A pipeline on any runner.

    Args:
        runner: a short name that Beam knows, or the full name of the runner's class.
        options: flags as Beam and its runner document them: ``("--direct_num_workers=2",)``.

    Raises:
        ConfigError: no such runner, or an option that neither Beam nor the runner knows.
    """

    runner: str
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # The runner's module declares its options; it is loaded before they are parsed.
        try:
            create_runner(self.runner)
        except Exception as error:
            raise ConfigError(f"no usable Beam runner: {error}", where=self.runner, mend="docs/cluster.md names the runners") from error
        if unknown := self._unknown():
            raise ConfigError(f"options nobody reads: {' '.join(unknown)}", where=self.runner, mend="docs/cluster.md shows each runner's")

    def each(self, function: Callable[[Any], None], descriptors: Sequence[Any]) -> None:
        pipeline = beam.Pipeline(runner=self.runner, options=PipelineOptions([*self.options, *self._spread()]))
        # One chain, since the Dask runner computes the last branch alone; Reshuffle spreads the descriptors over the workers.
        pipeline | beam.Create(list(descriptors)) | beam.Reshuffle() | beam.ParDo(Call(function))
        result = None
        try:
            result = pipeline.run()
            result.wait_until_finish()
        except Exception as error:
            raise EngineError(f"the Beam pipeline stopped: {error}", where=self.runner, mend="look at the runner's own log") from error
        finally:
            # The Dask runner leaves its connection open.
            if client := getattr(result, "client", None):
                client.close()

    def _spread(self) -> tuple[str, ...]:
        """A Dask task for each shard: by default that runner puts 128 elements into one, which would run them one after the other."""
        ours = self.runner.endswith("DaskRunner") and not any(
            o.startswith(("--dask_npartitions", "--dask_partition_size")) for o in self.options
        )
        return ("--dask_partition_size=1",) if ours else ()

    def _unknown(self) -> list[str]:
        parser: Any = None

        def keep(made: Any) -> None:
            nonlocal parser
            parser = made

        logging.getLogger("apache_beam.options.pipeline_options").setLevel(logging.ERROR)
        PipelineOptions(list(self.options)).get_all_options(add_extra_args_fn=keep)
        unknown: list[str] = parser.parse_known_args(list(self.options))[1]
        return unknown
