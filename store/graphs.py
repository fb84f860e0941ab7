"""A bundle's ONNX graphs, each believed once its inputs and outputs fit the manifest and its golden answers come out."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from schemas.errors import ConfigError, CorruptError
from store.lookup import Lookup
from store.manifest import MEND, File, Manifest

#: How far a golden answer may be off, in units of its rms; another head is off by tenths, another processor by millionths.
TOLERANCE = 1e-3
#: float32 products in TF32 would be off by more than that.
_OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0"}}


class Graphs:
    """Head, static head and query encoder, loaded when first asked for.

    Args:
        manifests: of the bundle and its bases, newest first; a delta leaves the model to its base.
        lookup: gives the states of golden answers.
        providers: onnxruntime execution providers, best first.
        threads: threads of one run; 0: one a core.
        known: graphs of another bundle; what is the same, byte for byte, is not loaded again.
    """

    def __init__(
        self, manifests: Sequence[Manifest], lookup: Lookup, providers: Sequence[str], threads: int, known: "Graphs | None" = None
    ) -> None:
        self._manifests, self._lookup = manifests, lookup
        missing = [name for name in providers if name not in onnxruntime.get_available_providers()]
        if missing:
            raise ConfigError(
                f"onnxruntime has no {missing[0]} here", where=str(manifests[0].path), mend="install the onnxruntime that has it"
            )
        self._providers = [(name, _OPTIONS.get(name, {})) for name in providers]
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.log_severity_level = 3
        self._sessions: dict[str, tuple[File, onnxruntime.InferenceSession]] = {}
        if known and (known._providers, known._options.intra_op_num_threads) == (self._providers, threads):
            self._sessions.update(known._sessions)

    @cached_property
    def head(self) -> onnxruntime.InferenceSession:
        """``head.onnx``."""
        return self._head("head.onnx", static=False)

    @cached_property
    def static_head(self) -> onnxruntime.InferenceSession:
        """``static_head.onnx``."""
        return self._head("static_head.onnx", static=True)

    @cached_property
    def query_encoder(self) -> onnxruntime.InferenceSession:
        """``query_encoder.onnx``."""
        name = "query_encoder.onnx"
        if self._sessions.get(name, (None,))[0] != self._home(name).files[name]:
            self._home(name).check(name)
        session = self._session(name)
        if {x.name for x in session.get_inputs()} != {"input_ids", "attention_mask"}:
            raise self._misfit(name, "has other inputs than token ids and mask")
        for case in self._golden:
            if case["query"] is not None:
                self._compare(name, self._embed(session, [case["query"]])[0], case["query_embedding"])
                break
        return session

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Query embeddings, float32 ``[n, dim]``."""
        return self._embed(self.query_encoder, texts)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        try:
            return Tokenizer.from_file(str(self._home("tokenizer.json").path / "tokenizer.json"))
        except Exception as error:
            raise self._misfit("tokenizer.json", f"cannot be read: {error!s:.200}") from error

    @cached_property
    def _golden(self) -> list[Mapping[str, Any]]:
        try:
            cases: list[Mapping[str, Any]] = json.loads((self._manifests[0].path / "golden.json").read_bytes())["cases"]
            kinds = {case["query"] is None for case in cases}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._misfit("golden.json", f"holds no golden answers: {error!r:.200}") from error
        if kinds != {True, False}:
            raise self._misfit("golden.json", "lacks golden answers of a head")
        return cases

    def _embed(self, session: onnxruntime.InferenceSession, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        if not texts:
            return np.zeros((0, int(self._manifests[0].data["query_encoder"]["dim"])), np.float32)
        encoded = self._tokenizer.encode_batch(list(texts))
        feeds = {
            "input_ids": np.array([e.ids for e in encoded], np.int64).reshape(len(encoded), -1),
            "attention_mask": np.array([e.attention_mask for e in encoded], np.int64).reshape(len(encoded), -1),
        }
        out: npt.NDArray[np.float32] = session.run(["query"], feeds)[0]
        return out

    def _head(self, name: str, *, static: bool) -> onnxruntime.InferenceSession:
        session, about = self._session(name), self._manifests[0]
        beside = (*(() if static else ("query",)), *(("task",) if about.data.get("tasks") else ()))
        wanted = {"now", *(column.name for column in about.spec.columns if column.head), *beside}
        found = {x.name for x in session.get_inputs()}
        if found != wanted:
            raise self._misfit(name, f"reads {sorted(found)}, not {sorted(wanted)}")
        shape = [about.data["prefix"]["length"], about.data["prefix"]["dim"]]
        for output in session.get_outputs():
            if output.name != "prefix" or list(output.shape[1:]) != shape:
                raise self._misfit(name, f"gives {output.name} {output.shape}, not a prefix {shape}: it is another LLM's head")
        for case in self._golden:
            if (case["query"] is None) == static:
                self._compare(name, self._golden_answer(session, case), case["prefix"])
        return session

    def _golden_answer(self, session: onnxruntime.InferenceSession, case: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        about = self._manifests[0]
        try:
            row = case["row"]
            if row is not None and not 0 <= row < self._lookup.layers[0].users:
                raise ValueError(f"row {row}")
            feeds = {**self._lookup.row(row).head_inputs(about.spec), "now": np.array([case["now"]], np.int64)}
            if case["query"] is not None:
                feeds["query"] = np.array([case["query_embedding"]], np.float32)
            if tasks := about.data.get("tasks"):
                feeds["task"] = np.array([-1 if case["task"] is None else tasks.index(case["task"])], np.int64)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._misfit("golden.json", f"holds an answer to nothing: {error!r:.200}") from error
        try:
            answer: npt.NDArray[np.float32] = session.run(["prefix"], feeds)[0][0]
        except Exception as error:  # onnxruntime's own errors have no common base
            raise self._misfit("the head", f"does not run: {error!s:.200}") from error
        return answer

    def _compare(self, name: str, found: npt.NDArray[np.float32], expected: Any) -> None:
        try:
            wanted = np.array(expected, np.float32)
        except (TypeError, ValueError) as error:
            raise self._misfit("golden.json", f"holds no numbers: {error}") from error
        gap = np.inf
        if found.shape == wanted.shape:
            gap = float(np.abs(found - wanted).max() / max(1e-12, float(np.sqrt(np.mean(wanted**2)))))
        if not gap <= TOLERANCE:
            raise self._misfit(name, f"gives other answers than the golden ones, off by {gap:.1e} of their rms")

    def _home(self, name: str) -> Manifest:
        return next(manifest for manifest in self._manifests if name in manifest.files)

    def _session(self, name: str) -> onnxruntime.InferenceSession:
        home = self._home(name)
        file, loaded = self._sessions.get(name, (None, None))
        if file != home.files[name]:
            try:
                loaded = onnxruntime.InferenceSession(str(home.path / name), self._options, providers=self._providers)
            except Exception as error:  # onnxruntime's own errors have no common base
                raise self._misfit(name, f"is no graph that onnxruntime can run: {error!s:.200}") from error
            self._sessions[name] = (home.files[name], loaded)
        return loaded

    def _misfit(self, name: str, what: str) -> CorruptError:
        return CorruptError(f"{name} {what}", where=str(self._manifests[0].path), mend=MEND)
