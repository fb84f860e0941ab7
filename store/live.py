"""Hot swap: the bundle that ``CURRENT`` names, followed while answers are given."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from schemas.errors import CompatibilityError, CorruptError, NotFoundError, TapstateError
from store.client import CPU, Bundle
from store.manifest import named
from store.pull import pull

_log = logging.getLogger("tapstate.live")
#: A name may be swapped away between reading and opening it.
_TRIES = 5


class Live:
    """Always an opened, checked bundle. Whoever answers takes ``live.bundle`` once a request: its answers come from that one alone.

    An old bundle lives until the last answer from it is done. One that cannot be used is not swapped in: the old one stays.

    Args:
        uri: a directory with ``CURRENT``, or an object-store URI, pulled into ``cache`` at each look.
        every: seconds between looks at ``CURRENT``, in a thread of its own; None: only ``refresh`` looks.
        providers, threads, llm, cache, by: as ``Bundle.open`` takes them.

    Raises:
        NotFoundError, CorruptError, CompatibilityError, ConfigError: as ``Bundle.open``, for the first bundle.
    """

    def __init__(
        self,
        uri: str | Path,
        every: float | None = None,
        *,
        providers: Sequence[str] = CPU,
        threads: int = 1,
        llm: str | None = None,
        cache: str | Path | None = None,
        by: str | None = None,
    ) -> None:
        self.uri, self.providers, self.threads, self.llm, self.cache, self.by = uri, providers, threads, llm, cache, by
        self.bundle = Bundle.open(uri, providers, threads=threads, llm=llm, cache=cache, by=by)
        self.bundle.warm(blocks=False)
        #: Why the bundle that ``CURRENT`` names is not the one that answers; None when it is.
        self.error: TapstateError | None = None
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._follow, args=(every,), daemon=True, name="tapstate-live") if every else None
        if self._thread:
            self._thread.start()

    def refresh(self) -> bool:
        """Look at ``CURRENT`` now; whether another bundle was swapped in.

        Raises:
            NotFoundError, CorruptError, CompatibilityError: the new one cannot be used; the old one goes on answering.
        """
        with self._lock:
            try:
                swapped = self._refresh()
            except TapstateError as error:
                self.error = error
                raise
            self.error = None
            return swapped

    def _refresh(self) -> bool:
        directory = Path(self.cache) if self.cache is not None and "://" in str(self.uri) else Path(self.uri)
        if "://" in str(self.uri):
            pull(str(self.uri), directory, by=self.by)
        for attempt in range(_TRIES):
            path = named(directory)
            if path == self.bundle.path:
                return False
            try:
                new = Bundle(path, self.providers, threads=self.threads, llm=self.llm, known=self.bundle)
            except (NotFoundError, CorruptError):
                if attempt == _TRIES - 1 or named(directory) == path:
                    raise
                continue
            break
        old = self.bundle
        for what in ("length", "dim", "query_dim"):
            if getattr(new, what) != getattr(old, what):
                raise CompatibilityError(
                    f"the new bundle's {what} is {getattr(new, what)}, not {getattr(old, what)}: it is for another LLM",
                    where=str(path),
                    mend="start a server of its own for it",
                )
        if new.manifest["llm"]["fingerprint"] != old.manifest["llm"]["fingerprint"]:
            raise CompatibilityError("the new bundle is for another LLM", where=str(path), mend="start a server of its own for it")
        if new.bridge_files() != old.bridge_files():
            mend = "put its LoRA on the LLM (Bundle.bridge) and start a server of its own for it"
            raise CompatibilityError("the new bundle comes with another LoRA for the LLM", where=str(path), mend=mend)
        if new.tasks and not old.tasks:
            mend = "name a task in every request, and start the server again"
            raise CompatibilityError("the new bundle has tasks, and whoever asks for none gets no instruction", where=str(path), mend=mend)
        lost = [task for task in old.tasks if task not in new.tasks]
        if lost:
            mend = "tapstate train with events of that task, then tapstate bundle; or start a server of its own for it"
            raise CompatibilityError(f"the new bundle lacks task {lost[0]!r}", where=str(path), mend=mend)
        new.warm(blocks=False)
        # One assignment: whoever asks sees the old bundle or the new one, never half of each.
        self.bundle = new
        return True

    def close(self) -> None:
        """Stop looking at ``CURRENT``."""
        self._stop.set()
        if self._thread:
            self._thread.join()

    def __enter__(self) -> "Live":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _follow(self, every: float) -> None:
        while not self._stop.wait(every):
            before = self.error
            try:
                self.refresh()
            except TapstateError as error:
                if str(error) != str(before):
                    _log.warning("not swapped, %s goes on answering: %s", self.bundle.path.name, error)
            except Exception:
                _log.exception("not swapped, %s goes on answering", self.bundle.path.name)
