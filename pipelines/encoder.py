"""A line's text encoder as its home knows it: named without being loaded, loaded when there is something to encode."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encoders.text import TextEncoder, default_model
from schemas.config import EncoderConfig
from schemas.keys import content_hash
from store.home import Home


class KnownEncoder:
    """The encoder of ``config``, its fingerprint and width taken from the home where the same files were loaded before.

    Loading takes seconds, hashing the files a fraction of one. Files are told by their bytes, so another model in their place is seen.
    """

    def __init__(self, home: Home, config: EncoderConfig) -> None:
        self.home, self.config = home, config

    @cached_property
    def text(self) -> TextEncoder:
        """The encoder, loaded.

        Raises:
            ConfigError: no such model, or one that transformers cannot load.
        """
        return TextEncoder(self.config)

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

    @cached_property
    def _about(self) -> tuple[str, int]:
        path = self._record
        if path and (held := self.home.objects.get(path)):
            about = json.loads(held)
            return about["fingerprint"], about["dim"]
        if path:
            about = {"fingerprint": self.text.fingerprint, "dim": self.text.dim, "model": self.config.model}
            self.home.objects.create(path, json.dumps(about).encode())
        return self.text.fingerprint, self.text.dim

    @cached_property
    def _record(self) -> str | None:
        """Where the home says what these files are; None for a model that is no directory here."""
        directory = Path(self.config.model or default_model())
        if not directory.is_dir():
            return None
        hashes = {}
        for path in sorted(p for p in directory.iterdir() if p.is_file()):
            with path.open("rb") as stream:
                hashes[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
        # How the libraries read the files is part of the fingerprint, too.
        packages = {name: version(name) for name in ("transformers", "tokenizers", "torch")}
        return f"encoders/{content_hash(hashes, packages, self.config.model_dump())}.json"
