"""A line's text encoder as its home knows it: named without being loaded, loaded when there is something to encode."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encoders.text import KERNELS, POOLING, TextEncoder, default_model
from schemas.config import EncoderConfig
from schemas.errors import CompatibilityError
from schemas.keys import content_hash
from store.home import Home


class KnownEncoder:
    """The encoder of ``config``, its fingerprint and width taken from the home where the same files were loaded before.

    Loading takes seconds, hashing the files a fraction of one. Files are told by their bytes, so another model in their place is seen.
    """

    def __init__(self, home: Home, config: EncoderConfig) -> None:
        self.home, self.config = home, config
        self._told: tuple[str, int] | None = None

    @cached_property
    def text(self) -> TextEncoder:
        """The encoder, loaded.

        Raises:
            ConfigError: no such model, or one that transformers cannot load.
            CompatibilityError: its files were replaced since it was named.
        """
        made = TextEncoder(self.config)
        if self._told and self._told[0] != made.fingerprint:
            raise CompatibilityError(
                f"the encoder's files were replaced meanwhile: {self._told[0][:12]} became {made.fingerprint[:12]}",
                where=self.config.model or "the bundled MiniLM",
                mend="run the command again; tapstate doctor says whether the encoder is its line's",
            )
        return made

    @property
    def fingerprint(self) -> str:
        """As ``TextEncoder.fingerprint``."""
        return self._about[0]

    @property
    def dim(self) -> int:
        """As ``TextEncoder.dim``."""
        return self._about[1]

    def encode(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> npt.NDArray[np.float16]:
        """As ``TextEncoder.encode``."""
        return self.text.encode(texts, progress)

    @property
    def _about(self) -> tuple[str, int]:
        self._told = self._told or self._held(self._record()) or self._loaded()
        return self._told

    def _held(self, path: str | None) -> tuple[str, int] | None:
        try:
            about = json.loads((path and self.home.objects.get(path)) or b"")
            return str(about["fingerprint"]), int(about["dim"])
        except (ValueError, KeyError, TypeError):
            return None

    def _loaded(self) -> tuple[str, int]:
        """Of the loaded encoder; kept in the home if its files stood still meanwhile."""
        before = self._record()
        about = self.text.fingerprint, self.text.dim
        if before and before == self._record():
            told = {"fingerprint": about[0], "dim": about[1], "model": self.config.model}
            self.home.objects.put(before, json.dumps(told).encode())
        return about

    def _record(self) -> str | None:
        """Where the home says what these files are; None for a model that is no directory here."""
        directory = Path(self.config.model or default_model())
        if not directory.is_dir():
            return None
        hashes = {}
        for path in sorted(p for p in directory.rglob("*") if p.is_file()):
            with path.open("rb") as stream:
                hashes[path.relative_to(directory).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
        # How the libraries and we ourselves read the files is part of the fingerprint, too.
        packages = {name: version(name) for name in ("transformers", "tokenizers", "torch")}
        return f"encoders/{content_hash(hashes, packages, POOLING, KERNELS, self.config.model_dump())}.json"
