"""Reading a bundle: users and queries to prefixes, with onnxruntime, pyarrow, numpy and tokenizers alone."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pyarrow as pa
from tokenizers import Tokenizer

from schemas.errors import CorruptError, InputError, NotFoundError
from schemas.keys import content_hash, user_hash
from schemas.states import StateBatch, StateSpec

FORMATS = (1,)
KNOWN, UNKNOWN, EXPIRED = "known", "unknown", "expired"
#: Files checked when a bundle is opened; the others when ``verify`` is called.
CHECKED_AT_OPEN = ("golden.json", "tokenizer.json", "head.onnx", "static_head.onnx")


@dataclass(frozen=True)
class Answer:
    """Prefixes and what is known of their users.

    Attributes:
        prefix: float32 ``[n, L, d_llm]``.
        status: n of ``known``, ``unknown`` (the default prefix) and ``expired`` (the query came after ``valid_until``; the prefix is
            still the user's, as old as the bundle).
    """

    prefix: npt.NDArray[np.float32]
    status: list[str]


class Bundle:
    """An opened bundle; its states are memory-mapped.

    Args:
        directory: a bundle, or a directory whose ``CURRENT`` names one.
        providers: onnxruntime execution providers, CPU by default.
    """

    def __init__(self, directory: str | Path, providers: Sequence[str] = ("CPUExecutionProvider",)) -> None:
        path = Path(directory)
        if (path / "CURRENT").is_file():
            path = path / (path / "CURRENT").read_text().strip()
        self.path, self.providers = path, list(providers)
        self.manifest = self._manifest()
        for name in CHECKED_AT_OPEN:
            self._check(name)
        self.spec = StateSpec.from_json(self.manifest["states"]["spec"])
        self._parts = [_Part(path / file["name"], self.spec) for file in self.manifest["states"]["files"]]
        self._lows = np.array([file["low"] for file in self.manifest["states"]["files"]], np.int64)

    @classmethod
    def open(cls, directory: str | Path, providers: Sequence[str] = ("CPUExecutionProvider",)) -> "Bundle":
        """Open and check the manifest and the small files.

        Raises:
            NotFoundError: no bundle there.
            CorruptError: a file that is not what the manifest says, or a format this client does not know.
        """
        return cls(directory, providers)

    def __len__(self) -> int:
        return int(self.manifest["users"])

    def __repr__(self) -> str:
        return f"<Bundle version {self.manifest['version']}, {len(self):,} users, L={self.length}, d={self.dim}, {self.path}>"

    @property
    def length(self) -> int:
        """Vectors of a prefix, L."""
        return int(self.manifest["prefix"]["length"])

    @property
    def dim(self) -> int:
        """Width of a prefix vector, the LLM's hidden size."""
        return int(self.manifest["prefix"]["dim"])

    def states(self, user_ids: Sequence[str]) -> tuple[StateBatch, npt.NDArray[np.bool_]]:
        """States of the users, and which of them are known; an unknown user's is empty."""
        hashes = np.array([user_hash(user) for user in user_ids], np.int64).reshape(-1, 2)
        part_of = np.searchsorted(self._lows, hashes[:, 0], side="right") - 1
        known = np.zeros(len(hashes), bool)
        if not len(hashes):
            return StateBatch.empty(0, self.spec), known
        pieces, places = [], []
        for part in np.unique(part_of):
            place = np.flatnonzero(part_of == part)
            rows = self._parts[part].find(hashes[place])
            known[place] = rows >= 0
            pieces.append(self._parts[part].states.take(rows, self.spec))
            places.append(place)
        if len(pieces) == 1:
            return pieces[0], known
        together = StateBatch(
            {name: np.concatenate([p.columns[name] for p in pieces]) for name in pieces[0].columns},
            np.concatenate([[0], np.cumsum(np.concatenate([np.diff(p.offsets) for p in pieces]))]).astype(np.int64),
        )
        return together.take(np.argsort(np.concatenate(places)), self.spec), known

    def prefix(
        self,
        user_ids: Sequence[str],
        queries: Sequence[str] | None = None,
        *,
        query_embeddings: npt.NDArray[np.float32] | None = None,
        now: float | None = None,
    ) -> Answer:
        """Fused prefixes: one query for each user, as text or as embedding ``[n, dim]`` from ``embed``.

        Args:
            now: time of the queries, seconds since 1970; the present by default.

        Raises:
            InputError: not one query a user.
        """
        if (queries is None) == (query_embeddings is None):
            raise InputError("give queries or query_embeddings, one of the two", mend="Bundle.prefix(users, queries)")
        embeddings = self.embed(queries) if queries is not None else np.asarray(query_embeddings, np.float32)
        if len(embeddings) != len(user_ids):
            raise InputError(f"{len(user_ids)} users, {len(embeddings)} queries", mend="give one query for each user")
        moment = int(time.time() if now is None else now)
        return self._answer(self._head, user_ids, {"query": embeddings}, moment, moment)

    def static_prefix(self, user_ids: Sequence[str], now: float | None = None) -> Answer:
        """Prefixes that do not depend on query or time: bit-identical in every request, so an LLM server can cache their KV."""
        return self._answer(self._static_head, user_ids, {}, int(self.manifest["as_of"]), int(time.time() if now is None else now))

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Query embeddings, float32 ``[n, dim]``."""
        encoded = self._tokenizer.encode_batch(list(texts))
        feeds = {
            "input_ids": np.array([e.ids for e in encoded], np.int64).reshape(len(encoded), -1),
            "attention_mask": np.array([e.attention_mask for e in encoded], np.int64).reshape(len(encoded), -1),
        }
        out: npt.NDArray[np.float32] = self._query_encoder.run(["query"], feeds)[0]
        return out

    def verify(self) -> None:
        """Check every block of every file, and the golden answers.

        Raises:
            CorruptError: names the file, or the golden case that comes out otherwise.
        """
        for name in self.manifest["files"]:
            self._check(name)
        for case in json.loads((self.path / "golden.json").read_text())["cases"]:
            answer = self._golden(case)
            wanted = np.array(case["prefix"], np.float32)
            gap = np.abs(answer - wanted).max() / max(1e-12, float(np.sqrt(np.mean(wanted**2))))
            if not gap <= 1e-3:
                raise CorruptError(
                    f"the golden answer for row {case['row']} of states file {case['file']} is off by {gap:.1e}",
                    where=str(self.path),
                    mend="tapstate bundle",
                )

    def _golden(self, case: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        rows = np.array([case["row"]], np.int64)
        state = self._parts[case["file"]].states.take(rows, self.spec).head_inputs(self.spec)
        feeds = {**state, "now": np.array([case["now"]], np.int64)}
        if case["query"] is None:
            return self._static_head.run(["prefix"], feeds)[0][0]
        return self._head.run(["prefix"], {**feeds, "query": self.embed([case["query"]])})[0][0]

    def _answer(
        self, head: onnxruntime.InferenceSession, user_ids: Sequence[str], feeds: Mapping[str, Any], now: int, asked: int
    ) -> Answer:
        state, known = self.states(user_ids)
        inputs = {**feeds, **state.head_inputs(self.spec), "now": np.full(len(user_ids), now, np.int64)}
        late = asked > int(self.manifest["valid_until"])
        status = [(EXPIRED if late else KNOWN) if there else UNKNOWN for there in known]
        return Answer(head.run(["prefix"], inputs)[0], status)

    @cached_property
    def _head(self) -> onnxruntime.InferenceSession:
        return self._session("head.onnx")

    @cached_property
    def _static_head(self) -> onnxruntime.InferenceSession:
        return self._session("static_head.onnx")

    @cached_property
    def _query_encoder(self) -> onnxruntime.InferenceSession:
        self._check("query_encoder.onnx")
        return self._session("query_encoder.onnx")

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(self._there("tokenizer.json"))

    def _session(self, name: str) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(self._there(name), providers=self.providers)

    def _there(self, name: str) -> str:
        path = self.path / name
        if not path.is_file():
            raise NotFoundError("the bundle was withdrawn", where=str(path), mend="open the bundle that CURRENT names")
        return str(path)

    def _manifest(self) -> dict[str, Any]:
        path = self.path / "manifest.json"
        try:
            manifest: Any = json.loads(path.read_text())
        except OSError as error:
            raise NotFoundError("no bundle there", where=str(self.path), mend="tapstate bundle") from error
        except ValueError as error:
            raise CorruptError(f"manifest.json is not JSON: {error}", where=str(self.path), mend="tapstate bundle") from error
        found = manifest.get("format") if isinstance(manifest, dict) else None
        if found not in FORMATS:
            raise CorruptError(f"bundle of format {found}, this client reads {FORMATS}", where=str(path), mend="update the client")
        if manifest.get("bundle_id") != content_hash({k: v for k, v in manifest.items() if k not in ("created_at", "bundle_id")}):
            raise CorruptError("manifest.json is not what its bundle_id says", where=str(path), mend="tapstate bundle")
        checked: dict[str, Any] = manifest
        return checked

    def _check(self, name: str) -> None:
        """Compare a file with the manifest's size and block hashes."""
        wanted, path = self.manifest["files"][name], self.path / name
        found, size = [], 0
        if path.is_file():
            with path.open("rb") as stream:
                while block := stream.read(self.manifest["block_bytes"]):
                    found.append(hashlib.sha256(block).hexdigest())
                    size += len(block)
        if found != wanted["sha256"] or size != wanted["bytes"]:
            raise CorruptError(
                "a file is not what the manifest says", where=str(path), mend="pull or make the bundle again: tapstate bundle"
            )


class _Part:
    """One states file, memory-mapped."""

    def __init__(self, path: Path, spec: StateSpec) -> None:
        self.path, self.spec = path, spec

    @cached_property
    def _batch(self) -> pa.RecordBatch:
        try:
            return pa.ipc.open_file(pa.memory_map(str(self.path))).get_batch(0)
        except (OSError, pa.ArrowException) as error:
            raise CorruptError(f"unreadable states: {error}", where=str(self.path), mend="tapstate bundle") from error

    @cached_property
    def states(self) -> StateBatch:
        """The file's states, on the mapped pages."""
        return StateBatch.from_arrow(self._batch, self.spec, bundle=True)

    @cached_property
    def _keys(self) -> npt.NDArray[np.int64]:
        keys: npt.NDArray[np.int64] = self._batch.column("key").to_numpy()
        return keys

    @cached_property
    def _checks(self) -> npt.NDArray[np.int64]:
        checks: npt.NDArray[np.int64] = self._batch.column("check").to_numpy()
        return checks

    def find(self, hashes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Rows of (key, check) pairs ``[n, 2]``; -1 where there is none."""
        rows = np.full(len(hashes), -1, np.int64)
        first = np.searchsorted(self._keys, hashes[:, 0])
        for step in range(2):  # two users of one key lie side by side
            at = np.minimum(first + step, len(self._keys) - 1)
            if len(self._keys):
                hit = (self._keys[at] == hashes[:, 0]) & (self._checks[at] == hashes[:, 1])
                rows[hit] = at[hit]
        return rows
