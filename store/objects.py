"""Small objects of a home, on a local directory or an S3-type store: get, put, list, and put-if-absent."""

from collections.abc import Iterable, Iterator
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
            self._store: ObjectStore = from_url(self.uri) if self.remote else LocalStore(self.uri, mkdir=True)
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
            if paths:
                obstore.delete(self._store, paths)
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._failed("delete", folder, error) from error

    def remove(self, paths: Iterable[str]) -> None:
        """Delete objects; those not there are fine."""
        for path in paths:
            try:
                obstore.delete(self._store, path)
            except FileNotFoundError:
                continue
            except Exception as error:
                raise self._failed("delete", path, error) from error

    def walk(self, folder: str = "") -> Iterator[str]:
        """Paths of everything below ``folder``."""
        try:
            for batch in obstore.list(self._store, folder or None):
                yield from (meta["path"] for meta in batch)
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._failed("list", folder, error) from error

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

    def _failed(self, verb: str, path: str, error: Exception) -> HomeError:
        return HomeError(f"cannot {verb}: {error}", where=f"{self.uri}/{path}", mend="check permissions, free space and the connection")
