"""Scrubbing logs and SQLite files (Prefect's, say): ids become pseudonyms, and no freed page keeps what was there."""

import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np

from schemas.errors import HomeError
from store.needles import SHORTEST, Anchors

_SQLITE = b"SQLite format 3\x00"


class Scrub:
    """Words to be put in place of others, wherever they stand as words.

    Args:
        words: what to put in place of what.
    """

    def __init__(self, words: Mapping[str, str]) -> None:
        self._words = {word: name for word, name in words.items() if word}
        self._anchors = Anchors(word.encode() for word in self._words)
        self._short = [word for word in self._words if len(word.encode()) < SHORTEST]

    def text(self, text: str) -> str:
        """``text`` with the words replaced."""
        data = np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
        present = {needle.decode() for _, needle in self._anchors.find(data)} | {word for word in self._short if word in text}
        if not present:
            return text
        # The longest first; \w covers letters and digits of any script.
        pattern = "|".join(map(re.escape, sorted(present, key=len, reverse=True)))
        return re.sub(rf"(?<![\w-])(?:{pattern})(?![\w-])", lambda match: self._words[match[0]], text)

    def count(self, place: Path) -> int:
        """Cells of databases and whole files below ``place`` that would change."""
        return self._walk(place, act=False)

    def clean(self, place: Path) -> int:
        """Change them; returns how many.

        Raises:
            HomeError: another process keeps a database locked.
        """
        return self._walk(place, act=True)

    def _walk(self, place: Path, *, act: bool) -> int:
        changed = 0
        for path in sorted(p for p in place.rglob("*") if p.is_file() and not p.is_symlink()):
            if path.name.endswith(("-wal", "-shm", "-journal")):
                continue
            with path.open("rb") as stream:
                database = stream.read(len(_SQLITE)) == _SQLITE
            changed += self._database(path, act) if database else self._plain(path, act)
        return changed

    def _plain(self, path: Path, act: bool) -> int:
        data = path.read_bytes()
        clean = self.text(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        if clean == data:
            return 0
        if act:
            part = path.with_name(f".{path.name}.scrubbed")
            part.write_bytes(clean)
            part.replace(path)
        return 1

    def _database(self, path: Path, act: bool) -> int:
        changed = 0
        try:
            with closing(sqlite3.connect(path, timeout=60)) as base:
                base.execute("pragma secure_delete = on")
                base.create_function("scrubbed", 1, self._cell, deterministic=True)
                tables = base.execute("select name from sqlite_master where type = 'table' and name not like 'sqlite_%'").fetchall()
                for (table,) in tables:
                    for row in base.execute(f'pragma table_info("{table}")').fetchall():
                        where = f'"{table}" where scrubbed("{row[1]}") is not "{row[1]}"'
                        found = int(base.execute(f"select count(*) from {where}").fetchone()[0])
                        changed += found
                        if act and found:
                            base.execute(f'update or replace "{table}" set "{row[1]}" = scrubbed("{row[1]}") ' + where[len(table) + 2 :])
                if act:
                    base.commit()
                    # Deleted rows of old lie in free pages too.
                    base.execute("vacuum")
                    base.execute("pragma wal_checkpoint(truncate)")
        except sqlite3.Error as error:
            raise HomeError(
                f"cannot clean a database: {error}", where=str(path), mend="stop what uses it (tapstate deploy), then run again"
            ) from error
        return changed

    def _cell(self, value: str | bytes | int | float | None) -> str | bytes | int | float | None:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            return self.text(value.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        return value
