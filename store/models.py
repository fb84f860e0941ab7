"""Checkpoints of a home: immutable folders of files, named by hash."""

import json
import tempfile
from pathlib import Path
from typing import Any

from schemas.errors import NotFoundError
from schemas.states import StateSpec
from store.home import Home


class Models:
    """Models of a home.

    Args:
        home: the home.
    """

    def __init__(self, home: Home) -> None:
        self.home = home

    def save(self, name: str, files: dict[str, bytes]) -> None:
        """Keep ``files`` under the hash ``name``; the same hash holds the same bytes, so writing twice is harmless."""
        for path, data in files.items():
            self.home.objects.put(f"models/{name}/{path}", data)

    def directory(self, name: str) -> Path:
        """A local directory with the model's files; of a remote home, a copy in the user's cache.

        Raises:
            NotFoundError: no such model.
        """
        files = self.home.objects.names(f"models/{name}")
        if not files:
            raise NotFoundError(f"no model {name[:12]}", where=self.home.uri, mend="tapstate train")
        if not self.home.objects.remote:
            return Path(self.home.uri) / "models" / name
        cache = Path(tempfile.gettempdir()) / "tapstate-models" / name
        cache.mkdir(parents=True, exist_ok=True)
        for file in files:
            data = self.home.objects.get(f"models/{name}/{file}")
            if data is not None and not (cache / file).is_file():
                part = cache / f".{file}.part"
                part.write_bytes(data)
                part.replace(cache / file)
        return cache

    def spec(self, aggregator: str) -> StateSpec:
        """The columns of an aggregator's states.

        Raises:
            NotFoundError: no such aggregator.
        """
        return StateSpec.from_json(self.about(aggregator)["spec"])

    def about(self, aggregator: str) -> dict[str, Any]:
        """What an aggregator says of itself: ``encoder`` (a fingerprint), ``trained``, ``spec`` and its shape.

        Raises:
            NotFoundError: no such aggregator.
        """
        data = self.home.objects.get(f"models/{aggregator}/aggregator.json")
        if data is None:
            raise NotFoundError(f"no aggregator {aggregator[:12]}", where=self.home.uri, mend="tapstate train")
        found: dict[str, Any] = json.loads(data)
        return found

    def current_head(self, aggregator: str) -> str | None:
        """Hash of the head that bundles of this aggregator's versions get, if any."""
        data = self.home.objects.get(f"current/heads/{aggregator}")
        return data.decode() if data else None

    def use_head(self, aggregator: str, name: str) -> None:
        """Let bundles of this aggregator's versions get head ``name``."""
        self.home.objects.put(f"current/heads/{aggregator}", name.encode())
