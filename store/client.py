"""Reading a bundle: users and queries to prefixes, with onnxruntime, pyarrow, numpy and tokenizers alone."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from schemas.errors import CompatibilityError, InputError
from schemas.states import StateBatch
from store import lookup
from store.graphs import Graphs
from store.layer import Layer
from store.lookup import Codes, Lookup
from store.manifest import BRIDGE, SMALL, File, chain, named
from store.pull import pull

KNOWN, UNKNOWN, ERASED, EXPIRED = "known", "unknown", "erased", "expired"
_STATUS = {lookup.KNOWN: KNOWN, lookup.UNKNOWN: UNKNOWN, lookup.ERASED: ERASED}
CPU = ("CPUExecutionProvider",)


@dataclass(frozen=True)
class Answer:
    """Prefixes and what is known of their users.

    Attributes:
        prefix: float32 ``[n, L, d_llm]``.
        status: n of ``known``, ``unknown`` and ``erased`` (both get the default prefix), and ``expired`` (the query came after
            ``valid_until``; the prefix is still the user's, as old as the bundle).
        bundle_id: the one bundle that all of it comes from.
    """

    prefix: npt.NDArray[np.float32]
    status: list[str]
    bundle_id: str


class Bundle:
    """An opened bundle; its states are memory-mapped, so processes share their pages. Any number of threads may ask at once.

    Args:
        directory: a bundle, or a directory whose ``CURRENT`` names one.
        providers: onnxruntime execution providers, best first.
        threads: threads of one ONNX run; 0: one a core, faster alone and far less even beside other work.
        llm: name or fingerprint of the LLM that prefixes are for.
        known: an open bundle; layers and graphs that both have are not read and checked again.
    """

    def __init__(
        self,
        directory: str | Path,
        providers: Sequence[str] = CPU,
        *,
        threads: int = 1,
        llm: str | None = None,
        known: "Bundle | None" = None,
    ) -> None:
        self.path = named(Path(directory))
        manifests = list(chain(self.path))
        self.manifest, self.spec, self.bundle_id = manifests[0].data, manifests[0].spec, manifests[0].bundle_id
        if llm is not None and llm not in (self.manifest["llm"]["model"], self.manifest["llm"]["fingerprint"]):
            made_for = f"{self.manifest['llm']['model']} ({self.manifest['llm']['fingerprint'][:12]})"
            raise CompatibilityError(f"a bundle for {made_for}, not for {llm}", where=str(self.path), mend="tapstate train --llm …")
        shared = {layer.manifest.bundle_id: layer for layer in known.layers} if known else {}
        self.layers: list[Layer] = []
        for manifest in manifests:
            if manifest.bundle_id not in shared:
                manifest.inventory()
                for name in (name for name in SMALL if name in manifest.files):
                    manifest.check(name)
            self.layers.append(shared.get(manifest.bundle_id) or Layer(manifest))
        #: Names of the tasks that a prefix can be asked for; none of a head that was trained on one kind of question.
        self.tasks: tuple[str, ...] = tuple(self.manifest.get("tasks", ()))
        self._numbers: dict[str | None, int] = {None: -1, **{name: number for number, name in enumerate(self.tasks)}}
        self._lookup = Lookup(self.layers, self.spec)
        self._graphs: Graphs = Graphs(manifests, self._lookup, providers, threads, known._graphs if known else None)

    @classmethod
    def open(
        cls,
        uri: str | Path,
        providers: Sequence[str] = CPU,
        *,
        threads: int = 1,
        llm: str | None = None,
        cache: str | Path | None = None,
        by: str | None = None,
    ) -> "Bundle":
        """Open a bundle and check its manifest and its small files; blocks of the others are checked when first touched.

        Args:
            uri: a directory, or an object-store URI, from which it is first pulled into the directory ``cache``.
            by: who pulls, for the home's record.

        Raises:
            NotFoundError: no bundle there.
            CorruptError: a file that is not what the manifest says, or a format this client does not know.
            CompatibilityError: made for another LLM than ``llm``.
            ConfigError: an execution provider that onnxruntime does not have.
        """
        if "://" in str(uri):
            if cache is None:
                raise InputError("bundles are read from a local directory", where=str(uri), mend="Bundle.open(uri, cache=DIRECTORY)")
            uri = pull(str(uri), Path(cache), by=by).path
        return cls(uri, providers, threads=threads, llm=llm)

    def __len__(self) -> int:
        return int(self.manifest["users"])

    def __repr__(self) -> str:
        tasks = f", tasks {', '.join(self.tasks)}" if self.tasks else ""
        return f"<Bundle version {self.manifest['version']}, {len(self):,} users, L={self.length}, d={self.dim}{tasks}, {self.path}>"

    @property
    def length(self) -> int:
        """Vectors of a prefix, L."""
        return int(self.manifest["prefix"]["length"])

    @property
    def dim(self) -> int:
        """Width of a prefix vector, the LLM's hidden size."""
        return int(self.manifest["prefix"]["dim"])

    @property
    def query_dim(self) -> int:
        """Width of a query embedding."""
        return int(self.manifest["query_encoder"]["dim"])

    def states(self, user_ids: Sequence[str]) -> tuple[StateBatch, npt.NDArray[np.bool_]]:
        """States of the users, read-only, and which of them are known; one who is not has the empty state.

        Raises:
            InputError: a user id that is no text.
            CorruptError: bytes read for the first time that are not what the manifest says.
        """
        states, codes = self._lookup(user_ids)
        return states, codes.known

    def states_of(self, keys: npt.NDArray[np.int64], checks: npt.NDArray[np.int64]) -> tuple[StateBatch, npt.NDArray[np.bool_]]:
        """As ``states``, by key and check of the users, int64 ``[n]`` each, for who does not hold their ids."""
        states, codes = self._lookup.by_key(keys, checks)
        return states, codes.known

    def model_file(self, name: str) -> File:
        """Size and hashes of a graph or the tokenizer, wherever in the chain it lies."""
        return next(layer.manifest.files[name] for layer in self.layers if name in layer.manifest.files)

    @property
    def bridge(self) -> Path | None:
        """The directory whose LoRA belongs on the LLM before it reads a prefix (``peft.PeftModel.from_pretrained``); None without one.

        Raises:
            CorruptError: its files are not what the manifest says.
        """
        if not self.manifest["llm"].get("bridge"):
            return None
        holder = next(layer.manifest for layer in self.layers if BRIDGE[0] in layer.manifest.files)
        for name in BRIDGE:
            holder.check(name)
        return holder.path

    def bridge_files(self) -> list[File]:
        """Size and hashes of that LoRA's files; none without one."""
        return [self.model_file(name) for name in BRIDGE] if self.manifest["llm"].get("bridge") else []

    def prefix(
        self,
        user_ids: Sequence[str],
        queries: Sequence[str] | None = None,
        *,
        query_embeddings: npt.NDArray[np.float32] | None = None,
        now: float | npt.NDArray[Any] | None = None,
        task: str | Sequence[str | None] | None = None,
    ) -> Answer:
        """Fused prefixes: one query for each user, as text or as embedding ``[n, query_dim]`` from ``embed``.

        Args:
            now: time of the queries, seconds since 1970, one for all or one each; the present by default.
            task: one of ``tasks`` for all, or one (or None) each; None is the prefix without an instruction.

        Raises:
            InputError: not one query a user, embeddings of another width, or a task that is not there.
        """
        if (queries is None) == (query_embeddings is None):
            raise InputError("give queries or query_embeddings, one of the two", mend="Bundle.prefix(users, queries)")
        embeddings = self.embed(queries) if queries is not None else np.asarray(query_embeddings, np.float32)
        if len(embeddings) != len(user_ids):
            raise InputError(f"{len(user_ids)} users, {len(embeddings)} queries", mend="give one query for each user")
        if embeddings.shape[1:] != (self.query_dim,):
            raise InputError(f"query embeddings of shape {list(embeddings.shape)}", mend=f"give [n, {self.query_dim}], as embed does")
        asked = self._times(now, len(user_ids))
        feeds = {"query": embeddings, **self._asked(task, len(user_ids))}
        return self._answer(self._graphs.head, user_ids, feeds, asked, asked)

    def static_prefix(
        self,
        user_ids: Sequence[str],
        now: float | npt.NDArray[Any] | None = None,
        *,
        task: str | Sequence[str | None] | None = None,
    ) -> Answer:
        """Prefixes that do not depend on query or time: bit-identical in every request, so an LLM server can cache their KV.

        Args:
            now, task: as ``prefix`` takes them; ``now`` tells ``expired`` alone.

        Raises:
            InputError: a task that is not there.
        """
        as_of = self._times(self.manifest["as_of"], len(user_ids))
        feeds = self._asked(task, len(user_ids))
        return self._answer(self._graphs.static_head, user_ids, feeds, as_of, self._times(now, len(user_ids)))

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Query embeddings, float32 ``[n, query_dim]``."""
        return self._graphs.embed(texts)

    def warm(self, *, blocks: bool = True) -> None:
        """Load the graphs and check every block of the states, so that no later answer pays for it.

        Args:
            blocks: also the states; gigabytes take seconds.

        Raises:
            CorruptError: as ``verify``.
        """
        self._graphs.head, self._graphs.static_head, self._graphs.query_encoder  # noqa: B018
        for layer in self.layers if blocks else ():
            layer.open_all()

    def verify(self) -> None:
        """Check every block of every file, of the bases too, and the golden answers.

        Raises:
            CorruptError: names the file, or what came out otherwise.
        """
        for layer in self.layers:
            for name in layer.manifest.files:
                layer.manifest.check(name)
        self.warm()

    def _answer(
        self,
        head: onnxruntime.InferenceSession,
        user_ids: Sequence[str],
        feeds: Mapping[str, Any],
        now: npt.NDArray[np.int64],
        asked: npt.NDArray[np.int64],
    ) -> Answer:
        states, codes = self._lookup(user_ids)
        inputs = {**feeds, **states.head_inputs(self.spec), "now": now}
        return Answer(head.run(["prefix"], inputs)[0], self._told(codes, asked), self.bundle_id)

    def _asked(self, task: str | Sequence[str | None] | None, count: int) -> dict[str, npt.NDArray[np.int64]]:
        """The graphs' input for tasks; nothing where the bundle has none and none is asked for."""
        if task is None and not self.tasks:
            return {}
        named = [task] if task is None or isinstance(task, str) else list(task)
        for name in named:
            if not isinstance(name, str | None) or name not in self._numbers:
                there = f"there are {', '.join(self.tasks)}" if self.tasks else "this bundle has none"
                raise InputError(f"no task {name!r:.80}: {there}", mend="name one of Bundle.tasks, or none")
        if task is None or isinstance(task, str):
            named = named * count
        if len(named) != count:
            raise InputError(f"{count} users, {len(named)} tasks", mend="give one task for all, or one (or None) for each user")
        return {"task": np.array([self._numbers[name] for name in named], np.int64)} if self.tasks else {}

    def _told(self, codes: Codes, asked: npt.NDArray[np.int64]) -> list[str]:
        late = (codes.known & (asked > int(self.manifest["valid_until"]))).tolist()
        return [EXPIRED if old else _STATUS[code] for code, old in zip(codes.each.tolist(), late, strict=True)]

    @staticmethod
    def _times(now: float | npt.NDArray[Any] | None, count: int) -> npt.NDArray[np.int64]:
        times = np.asarray(time.time() if now is None else now).astype(np.int64)
        return np.ascontiguousarray(np.broadcast_to(times, (count,)))
