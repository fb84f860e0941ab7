"""Small objects of a home, on a local directory or an S3-type store: get, put, list, and put-if-absent."""

import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from urllib.parse import urlparse

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, ObjectStore, from_url

from schemas.errors import HomeError


class Objects:
    """Bytes by path below one home.

    Args:
        uri: a local directory, or an object-store URI such as ``s3://bucket/prefix`` (credentials and endpoint from the
            provider's usual environment variables).

    Raises:
        HomeError: the place cannot be reached or written at all.
    """

    def __init__(self, uri: str) -> None:
        self.remote = "://" in uri and urlparse(uri).scheme != "file"
        self.uri = uri.rstrip("/") if self.remote else str(Path(uri.removeprefix("file://")).absolute())
        try:
            self._store: ObjectStore = from_url(self.uri) if self.remote else LocalStore(self.uri, mkdir=True, automatic_cleanup=True)
        except Exception as error:
            raise HomeError(f"cannot reach the home: {error}", where=uri, mend="check --home, TAPSTATE_HOME and the credentials") from error

    def create(self, path: str, data: bytes) -> bool:
        """Put ``data`` unless something is there; False if there is. Exactly one of many writers gets True."""
        try:
            obstore.put(self._store, path, data, mode="create")
        except AlreadyExistsError:
            return False
        except Exception as error:
            raise self._failed("write", path, error) from error
        return True

    def put(self, path: str, data: bytes) -> None:
        """Put ``data``, whatever was there."""
        try:
            obstore.put(self._store, path, data)
        except Exception as error:
            raise self._failed("write", path, error) from error

    def get(self, path: str) -> bytes | None:
        """The bytes at ``path``; None if nothing is there."""
        try:
            return bytes(obstore.get(self._store, path).bytes())
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failed("read", path, error) from error

    def delete(self, folder: str) -> None:
        """Delete everything below ``folder``; nothing there is fine."""
        try:
            paths = [meta["path"] for batch in obstore.list(self._store, folder) for meta in batch]
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._failed("delete", folder, error) from error
        self.remove(*paths)
        self._prune(folder)

    def files(self, folder: str = "") -> dict[str, tuple[int, datetime]]:
        """Everything below ``folder``: bytes and time of last change by path below the home."""
        try:
            return {
                meta["path"]: (meta["size"], meta["last_modified"]) for batch in obstore.list(self._store, folder or None) for meta in batch
            }
        except FileNotFoundError:
            return {}
        except Exception as error:
            raise self._failed("list", folder, error) from error

    def remove(self, *paths: str) -> None:
        """Delete objects; those not there are fine."""
        # One after the other: another one may be deleting the same.
        for path in paths:
            try:
                obstore.delete(self._store, path)
            except FileNotFoundError:
                continue
            except Exception as error:
                raise self._failed("delete", path, error) from error

    def names(self, folder: str) -> list[str]:
        """Names directly below ``folder``, files and folders, sorted."""
        try:
            found = obstore.list_with_delimiter(self._store, folder)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._failed("list", folder, error) from error
        paths = [meta["path"] for meta in found["objects"]] + list(found["common_prefixes"])
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in paths)

    def parts(self) -> dict[str, int]:
        """Bytes, by path, of what writers that were killed left half-written; on a local directory only."""
        if self.remote:
            return {}
        # A put writes ``name#1`` and renames it; listings leave those out. Lance has its own files, Prefect too.
        folders = [p for p in Path(self.uri).iterdir() if p.is_dir() and p.name not in ("lance", "prefect")]
        found = [p for p in Path(self.uri).glob("*#*") if p.is_file()] + [p for f in folders for p in f.rglob("*#*") if p.is_file()]
        return {p.relative_to(self.uri).as_posix(): p.stat().st_size for p in found if p.name.rpartition("#")[2].isdecimal()}

    def discard_part(self, path: str) -> None:
        """Delete what ``parts`` listed."""
        (Path(self.uri) / path).unlink(missing_ok=True)
        self._prune(path.rpartition("/")[0])

    def _prune(self, folder: str) -> None:
        """Remove directories without files, which count as names: a writer that was killed before its file leaves one."""
        if folder and not self.remote:
            for place, _, _ in os.walk(Path(self.uri) / folder, topdown=False):
                with suppress(OSError):
                    os.rmdir(place)

    def _failed(self, verb: str, path: str, error: Exception) -> HomeError:
        return HomeError(f"cannot {verb}: {error}", where=f"{self.uri}/{path}", mend="check permissions, free space and the connection")
