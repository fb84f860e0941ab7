"""Numbered records: the commit protocol of a home.

Tables only grow by appends; a record, written put-if-absent under the next free number, makes appended rows count. The
loser of a number re-reads and tries the next, or stops.
"""

import json
from typing import Generic, TypeVar

from pydantic import ValidationError

from schemas.errors import CorruptError, HomeError
from schemas.records import NumberedRecord, Record
from store.objects import Objects

R = TypeVar("R", bound=NumberedRecord)
Kind = TypeVar("Kind", bound=Record)


def read_record(kind: type[Kind], data: bytes, where: str) -> Kind:
    """The record that ``data`` holds. One with fields that this release does not know is refused, not half understood: they may
    say what must not be read any more.

    Raises:
        HomeError: a later release wrote it; names that release.
        CorruptError: it is not that record.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        problems = error.errors()
        if all(problem["type"] == "extra_forbidden" for problem in problems):
            names = ", ".join(sorted(".".join(map(str, problem["loc"])) for problem in problems))
            release = json.loads(data).get("code", "unknown")
            raise HomeError(
                f"a later release, tapstate {release}, wrote this record; this one does not know its {names}",
                where=where,
                mend=f"pip install . in a checkout of tapstate {release} or later",
            ) from error
        raise CorruptError(
            f"not a valid record: {problems[0]['msg']}", where=where, mend="restore the file from a backup of the home"
        ) from error


class Ledger(Generic[R]):
    """Records ``<folder>/<n>.json``, n = 1, 2, … without gaps.

    Args:
        objects: where they lie.
        folder: their folder.
        kind: the pydantic model of a record.
    """

    def __init__(self, objects: Objects, folder: str, kind: type[R]) -> None:
        self.objects, self.folder, self.kind = objects, folder, kind
        self._read: dict[int, R] = {}

    def last(self) -> int:
        """The highest number in use; 0 for none."""
        stems = (name.removesuffix(".json") for name in self.objects.names(self.folder))
        return max((int(stem) for stem in stems if stem.isdecimal()), default=0)

    def append(self, number: int, record: R) -> bool:
        """Write ``record`` as ``number``; False if another writer was first."""
        return self.objects.create(f"{self.folder}/{number}.json", record.model_dump_json(indent=1).encode())

    def get(self, number: int) -> R | None:
        """Record ``number``, or None.

        Raises:
            CorruptError: it is there but not that record.
            HomeError: a later release wrote it.
        """
        if number not in self._read:
            path = f"{self.folder}/{number}.json"
            data = self.objects.get(path)
            if data is None:
                return None
            where, mend = f"{self.objects.uri}/{path}", "restore the file from a backup of the home"
            record = read_record(self.kind, data, where)
            if record.number != number:
                raise CorruptError(f"the record says it is number {record.number}", where=where, mend=mend)
            self._read[number] = record
        return self._read[number]

    def range(self, after: int, until: int) -> list[R]:
        """Records ``after + 1 … until``, in order.

        Raises:
            CorruptError: one is missing.
        """
        found = []
        for number in range(after + 1, until + 1):
            record = self.get(number)
            if record is None:
                raise CorruptError(
                    f"record {number} is missing",
                    where=f"{self.objects.uri}/{self.folder}",
                    mend="restore the file from a backup of the home",
                )
            found.append(record)
        return found

    def all(self) -> list[R]:
        """Every record, in order."""
        return self.range(0, self.last())
