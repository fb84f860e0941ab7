"""Fetching bundles from where they were published into a local directory, which is where a client reads them.

Only what is missing is fetched: a delta bundle brings its own files and finds its base there. Each bundle is written aside,
checked block by block while it comes, and renamed; ``CURRENT`` is swapped last. What was fetched from a home's shelf is told there: a small
record in its ``pulls/``, if whoever pulls may write one.
"""

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyarrow import ArrowException
from pyarrow.fs import FileSystem, FileType, LocalFileSystem

from schemas.errors import ConfigError, CorruptError, InputError, NotFoundError
from store.manifest import MEND, MOST_BYTES, MOST_LAYERS, Manifest, is_name
from store.provenance import code_version, who

#: Beside ``bundles`` in a home: who pulled what.
PULLS = "pulls"
#: Characters of a puller's name.
MOST_NAME = 64


@dataclass(frozen=True)
class Pulled:
    """What ``pull`` did.

    Attributes:
        path: the bundle that ``CURRENT`` now names.
        fetched: names of the bundles that were not there yet, newest first.
        bytes: fetched in all.
        unrecorded: why the home has no record of it; empty if it has one, or if nothing was fetched.
    """

    path: Path
    fetched: tuple[str, ...]
    bytes: int
    unrecorded: str = ""


def pull(uri: str, directory: Path, name: str | None = None, by: str | None = None) -> Pulled:
    """Fetch the bundle that ``uri/CURRENT`` names, and the bases it stands on, and let ``directory/CURRENT`` name it.

    Args:
        uri: the ``bundles`` directory of a home: a path, or an object-store URI that pyarrow knows (credentials and endpoint from
            the provider's usual environment variables).
        name: a bundle there; by default the one to serve.
        by: who pulls, for the home's record; the user of this process by default.

    Raises:
        NotFoundError: nothing there.
        CorruptError: bytes that are not what their manifest says; nothing of it is kept.
        InputError: a URI of no known kind.
        ConfigError: ``by`` cannot stand in a record.
    """
    if by is not None and not (by.isprintable() and 0 < len(by) <= MOST_NAME):
        raise ConfigError(f"{by!r:.100} is no name for a record", mend=f"1 to {MOST_NAME} printable characters")
    source = _Source(uri)
    if name is None:
        name = source.read("CURRENT", 200).decode(errors="replace").strip()
    if not is_name(name):
        raise CorruptError(f"CURRENT names {name!r:.60}, which no bundle is called", where=uri, mend=MEND)
    directory.mkdir(parents=True, exist_ok=True)
    missing: list[Manifest] = []
    following: str | None = name
    while following is not None:
        if len(missing) > MOST_LAYERS:
            raise CorruptError(f"a chain of more than {MOST_LAYERS} bundles", where=uri, mend="tapstate bundle --full")
        raw = source.read(f"{following}/manifest.json", MOST_BYTES)
        manifest = Manifest.parse(raw, Path(following))
        try:
            there = Manifest.read(directory / following).bundle_id == manifest.bundle_id
        except NotFoundError:
            there = False
        if not there:
            missing.append(manifest)
        following = manifest.base[0] if manifest.base else None
    # Bases first: what is there under its name is whole, and so is all that it stands on.
    for manifest in reversed(missing):
        _fetch(source, manifest, directory)
    with tempfile.NamedTemporaryFile("w", dir=directory, prefix=".current-", delete=False) as file:
        file.write(name)
    os.chmod(file.name, 0o644)
    os.replace(file.name, directory / "CURRENT")
    size = sum(file.bytes for manifest in missing for file in manifest.files.values())
    fetched = tuple(str(manifest.path) for manifest in missing)
    return Pulled(directory / name, fetched, size, source.tell(missing[0], fetched, size, by) if missing else "")


def _fetch(source: "_Source", manifest: Manifest, directory: Path) -> None:
    name = str(manifest.path)
    aside = Path(tempfile.mkdtemp(prefix=".pulling-", dir=directory))
    try:
        (aside / "states").mkdir()
        for file in manifest.files:
            source.copy(manifest, file, aside / file)
        (aside / "manifest.json").write_bytes(source.read(f"{name}/manifest.json", MOST_BYTES))
        if Manifest.read(aside).bundle_id != manifest.bundle_id:
            raise CorruptError("the bundle changed while it was pulled", where=name, mend="tapstate pull, again")
        aside.chmod(0o755)
        if (directory / name).exists():  # another content under that name: an open reader keeps its mapping of the old files
            (directory / name).rename(aside.with_name(aside.name + ".old"))
            aside.rename(directory / name)
            shutil.rmtree(aside.with_name(aside.name + ".old"))
        else:
            aside.rename(directory / name)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


class _Source:
    """Files below a URI."""

    def __init__(self, uri: str) -> None:
        self.uri, self._files = uri.rstrip("/"), LocalFileSystem()
        self._root = str(Path(uri).absolute())
        if "://" in uri:
            try:
                self._files, self._root = FileSystem.from_uri(self.uri + _endpoint(self.uri))
            except (ArrowException, OSError, ValueError) as error:
                raise InputError(
                    f"no place that pyarrow can read: {error}", where=uri, mend="give a path, s3://, gs:// or abfs://"
                ) from error

    def read(self, path: str, most: int) -> bytes:
        try:
            with self._files.open_input_stream(f"{self._root}/{path}") as stream:
                data: bytes = stream.read(most + 1)
        except FileNotFoundError as error:
            raise NotFoundError(f"no {path.rsplit('/', 1)[-1]} there", where=f"{self.uri}/{path}", mend="tapstate bundle") from error
        except (OSError, ArrowException) as error:
            mend = "check the URI, the credentials and the connection"
            raise InputError(f"cannot read: {error}", where=f"{self.uri}/{path}", mend=mend) from error
        if len(data) > most:
            raise CorruptError(f"{path} is larger than {most} bytes", where=self.uri, mend=MEND)
        return data

    def tell(self, manifest: Manifest, fetched: tuple[str, ...], size: int, by: str | None) -> str:
        """Leave a record in the home whose shelf this is; why there is none, if not. No pull fails for it."""
        home, _, shelf = self._root.rpartition("/")
        now = datetime.now(UTC)
        record: dict[str, Any] = {"created_at": now.isoformat(), "created_by": who(by), "code": code_version()}
        record |= {"bundle": str(manifest.path), "bundle_id": manifest.bundle_id, "version": manifest.data["version"]}
        record |= {"fetched": fetched, "bytes": size}
        try:
            if shelf != "bundles" or self._files.get_file_info(f"{home}/home.json").type is FileType.NotFound:
                return "this is no home's shelf"
            if isinstance(self._files, LocalFileSystem):
                self._files.create_dir(f"{home}/{PULLS}", recursive=False)
            # A name of its own: no record is ever written over.
            with self._files.open_output_stream(f"{home}/{PULLS}/{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}.json") as stream:
                stream.write(json.dumps(record).encode())
        except (OSError, ArrowException) as error:
            return f"cannot write to the home: {error}"
        return ""

    def copy(self, manifest: Manifest, name: str, target: Path) -> None:
        """One file, refused at the first block that is not what the manifest says."""
        path, where = f"{self._root}/{manifest.path}/{name}", f"{self.uri}/{manifest.path}/{name}"
        try:
            with self._files.open_input_stream(path) as stream, target.open("wb") as out:
                for wanted in manifest.files[name].blocks:
                    block = stream.read(min(manifest.block_bytes, manifest.files[name].bytes - out.tell()))
                    if hashlib.sha256(block).hexdigest() != wanted:
                        raise CorruptError("a file is not what its manifest says", where=where, mend="tapstate bundle")
                    out.write(block)
        except FileNotFoundError as error:
            raise CorruptError("a file of the bundle is missing", where=where, mend="tapstate bundle") from error


def _endpoint(uri: str) -> str:
    """pyarrow takes the endpoint of an S3-type store from the URI; others take it from the environment."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    if not uri.startswith("s3://") or not endpoint or "endpoint_override" in uri:
        return ""
    scheme, _, host = endpoint.rpartition("://")
    return f"{'&' if '?' in uri else '?'}endpoint_override={host}&scheme={scheme or 'https'}"
