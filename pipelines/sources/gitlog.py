"""Commits of a local git repository as events: who wrote what, where."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import polars as pl
import polars_hash as plh

from pipelines.sources import RawBatch
from schemas.errors import InputError

#: Commits of one batch, about; a commit's files stay with it.
COMMITS = 10_000
_READ = 1 << 20
#: A line that begins with NUL is a commit; neither subjects nor (quoted) file names can hold one.
_FORMAT = "%x00%H%x00%ae%x00%at%x00%ct%x00%s"
_HEADER = ["", "event_id", "email", "ts", "known_at", "text"]
_ELSEWHERE = {"GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE", "GIT_INDEX_FILE"}
ROOT = "(root)"


class GitLogSource:
    """The commits reachable from HEAD.

    ``user_id`` is the first 16 hex digits of SHA-256 of the lower-cased author e-mail, ``event_id`` the commit, ``ts``
    the author's time, ``known_at`` the committer's, ``text`` the subject (bytes that are not UTF-8 become U+FFFD),
    ``target`` the top directory of most of its files: ``(root)`` for files in none, null when the commit (a merge)
    changes no file. Of two directories with as many files the first by name counts. ``line`` is the commit's place
    in ``git log``.
    """

    def __init__(self, repository: str | Path) -> None:
        self.repository = Path(repository)

    @property
    def name(self) -> str:
        """The repository's directory."""
        return str(self.repository)

    def batches(self) -> Iterator[RawBatch]:
        """Raises InputError when there is no git, or no repository that it may read."""
        if not self.repository.is_dir():
            raise InputError("no such directory", where=self.name, mend="name a directory with a git repository")
        self._git("rev-parse", "--git-dir")
        try:
            self._git("rev-parse", "--verify", "--quiet", "HEAD")
        except InputError:
            return iter(())  # a repository without a commit
        return self._read()

    def _read(self) -> Iterator[RawBatch]:
        log = ["log", "--no-color", "--no-renames", "--name-only", f"--format={_FORMAT}", "HEAD", "--"]
        with tempfile.TemporaryFile() as complaints:
            git = subprocess.Popen(self._command(*log), stdout=subprocess.PIPE, stderr=complaints, env=_environment())
            assert git.stdout is not None
            line = 1
            try:
                for lines in _blocks(git.stdout):
                    batch = RawBatch(self.name, _commits(lines, line))
                    yield batch
                    line += len(batch.rows)
                if git.wait():
                    complaints.seek(0)
                    said = complaints.read().decode("utf-8", "replace").strip().splitlines()
                    yield RawBatch.broken(self.name, f"git log failed: {said[-1] if said else git.returncode}")
            finally:
                git.kill()
                git.wait()
                git.stdout.close()

    def _git(self, *arguments: str) -> None:
        try:
            done = subprocess.run(self._command(*arguments), capture_output=True, env=_environment(), check=False)
        except FileNotFoundError as error:
            raise InputError("git is not installed", where=self.name, mend="install git") from error
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise InputError(
                f"not a git repository that can be read: {said[0] if said else 'git failed'}",
                where=self.name, mend="name a directory with a git repository",
            )  # fmt: skip

    def _command(self, *arguments: str) -> list[str]:
        settings = ["-c", "core.quotePath=false", "-c", "log.showSignature=false", "-c", "i18n.logOutputEncoding=UTF-8"]
        return ["git", "-C", str(self.repository), "--no-pager", *settings, *arguments]


def _environment() -> dict[str, str]:
    """Ours, but for the variables by which a hook would make git look at another repository."""
    kept = {key: value for key, value in os.environ.items() if key not in _ELSEWHERE}
    return kept | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}


def _blocks(output: IO[bytes]) -> Iterator[list[str]]:
    """Lines of about ``COMMITS`` whole commits."""
    parts: list[bytes] = []
    commits = 0
    while chunk := output.read(_READ):
        last = chunk.rfind(b"\n\0") + 1
        if commits + chunk.count(b"\n\0") >= COMMITS and last:
            yield _lines([*parts, chunk[:last]])
            parts, commits, chunk = [], 0, chunk[last:]
        parts.append(chunk)
        commits += chunk.count(b"\n\0")
    if any(parts):
        yield _lines(parts)


def _lines(parts: list[bytes]) -> list[str]:
    return b"".join(parts).decode("utf-8", "replace").split("\n")


def _commits(lines: list[str], first: int) -> pl.DataFrame:
    """Commits out of the lines of ``git log``: a header each, then the names of its files."""
    log = pl.DataFrame({"row": lines}, schema={"row": pl.String()}).filter(pl.col("row") != "")
    log = log.with_columns(pl.col("row").str.starts_with("\0").alias("header"))
    log = log.with_columns(pl.col("header").cum_sum().cast(pl.Int64()).alias("commit"))
    path = pl.col("row").str.strip_prefix('"')  # git quotes names with odd characters
    top = pl.when(path.str.contains("/", literal=True)).then(path.str.split("/").list.first()).otherwise(pl.lit(ROOT))
    targets = (
        log.filter(~pl.col("header"))
        .group_by("commit", top.alias("target"))
        .len()
        .sort("commit", "len", "target", descending=[False, True, False])
        .unique("commit", keep="first", maintain_order=True)
        .select("commit", "target")
    )
    commits = log.filter("header").with_columns(pl.col("row").str.splitn("\0", len(_HEADER)).struct.rename_fields(_HEADER).alias("fields"))
    author = plh.concat_str(pl.col("email").str.to_lowercase()).chash.sha2_256().str.slice(0, 16)
    return (
        commits.select("commit", pl.col("fields").struct.unnest())
        .join(targets, on="commit", how="left", maintain_order="left")
        .select(
            author.alias("user_id"), "event_id", pl.col("ts").cast(pl.Int64(), strict=False),
            pl.col("known_at").cast(pl.Int64(), strict=False), "text", "target",
            (pl.col("commit") - 1 + first).alias("line"),
        )
    )  # fmt: skip
