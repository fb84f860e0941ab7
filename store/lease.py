"""Leases: who works on what, until when. They spare wasted work; no reader's view and no commit depends on one.

A lease is a ledger of its own, ``leases/<name>/<n>.json``, of which the last record counts: taking it, renewing it and taking it over from
a dead holder all write the next number put-if-absent, so exactly one of many does. A holder is dead when its time is over, or when
its process is gone from this very machine. Files that no table names yet are left alone while any lease lives.
"""

import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from schemas.errors import ConflictError, TapstateError
from schemas.records import LeaseRecord
from store.home import Home, provenance
from store.records import Ledger

#: How long a lease lasts unless it is renewed, and how often that is done.
TERM = timedelta(minutes=3)
RENEWALS = 4
FOLDER = "leases"


class Lease:
    """A lease that this process may hold.

    Args:
        home: the home.
        name: what it is for; one holder at a time.
        work: what the holder does, for people.
    """

    def __init__(self, home: Home, name: str, work: str) -> None:
        self.home, self.name, self.work = home, name, work
        self._token = secrets.token_hex(8)
        self._number, self._taken = 0, datetime.now(UTC)
        # A renewal is one step to whoever asks in between.
        self._lock = threading.RLock()

    def take(self) -> None:
        """Take it, from nobody or from a dead holder.

        Raises:
            ConflictError: somebody holds it; says who and until when.
        """
        while True:
            held = last(self.home, self.name)
            if held and alive(held):
                raise ConflictError(
                    f"{held.work} is under way: {held.created_by}, process {held.pid}, since "
                    f"{held.taken_at or held.created_at:%Y-%m-%d %H:%M:%S} UTC, holds it until {held.expires_at:%H:%M:%S} UTC or later",
                    where=f"{self.home.uri}, lease {self.name}",
                    mend="wait for it to end; a holder that died is taken over when its time is over",
                )
            number, self._taken = held.number + 1 if held else 1, datetime.now(UTC)
            if self._write(number):
                self._number = number
                if held:
                    self.home.objects.remove(self._path(held.number))
                return

    def renew(self) -> None:
        """Make it last from now on.

        Raises:
            ConflictError: it was taken over.
        """
        with self._lock:
            self.check()
            if not self._write(self._number + 1):
                raise self._lost()
            self._number += 1
            self.home.objects.remove(self._path(self._number - 1))

    def check(self) -> None:
        """Whether it is still ours.

        Raises:
            ConflictError: it was taken over.
        """
        with self._lock:
            if self.home.objects.get(self._path(self._number + 1)) is None:
                mine = Ledger(self.home.objects, f"{FOLDER}/{self.name}", LeaseRecord).get(self._number)
                if mine and mine.token == self._token:
                    return
        raise self._lost()

    def release(self) -> None:
        """Give it back; one that was taken over stays its new holder's."""
        with self._lock:
            self.home.objects.remove(self._path(self._number))

    def _write(self, number: int) -> bool:
        place, started = _here()
        now = datetime.now(UTC)
        record = LeaseRecord.model_validate(
            {
                **provenance(),
                "created_at": now,
                "number": number,
                "token": self._token,
                "work": self.work,
                "place": place,
                "pid": os.getpid(),
                "started": started,
                "expires_at": now + TERM,
                "taken_at": self._taken,
            }
        )
        return Ledger(self.home.objects, f"{FOLDER}/{self.name}", LeaseRecord).append(number, record)

    def _path(self, number: int) -> str:
        return f"{FOLDER}/{self.name}/{number}.json"

    def _lost(self) -> ConflictError:
        held = last(self.home, self.name)
        by = f" by {held.created_by}, process {held.pid}" if held else ""
        return ConflictError(
            f"the lease for {self.work} was taken over{by}: this process was silent for longer than {TERM}",
            where=f"{self.home.uri}, lease {self.name}",
            mend="run it again",
        )


@contextmanager
def lease(home: Home, name: str, work: str) -> Iterator[Lease]:
    """Hold lease ``name`` while the block runs, renewed in the background; tables are only committed to while it is ours.

    Raises:
        ConflictError: somebody holds it.
    """
    held = Lease(home, name, work)
    held.take()
    over = threading.Event()
    thread = threading.Thread(target=_keep, args=(held, over), name=f"lease {name}", daemon=True)
    thread.start()
    before, home.tables.guard = home.tables.guard, held.check
    try:
        yield held
    finally:
        home.tables.guard = before
        over.set()
        thread.join()
        held.release()


def _keep(held: Lease, over: threading.Event) -> None:
    while not over.wait(TERM.total_seconds() / RENEWALS):
        try:
            held.renew()
        except ConflictError:
            return
        except TapstateError:
            # The place cannot be reached; the next turn tries again, and a commit says so.
            continue


def unique(prefix: str) -> str:
    """A name for work that any number may do at once."""
    return f"{prefix}-{secrets.token_hex(6)}"


def last(home: Home, name: str) -> LeaseRecord | None:
    """The record of a lease that counts, if anybody took it."""
    ledger = Ledger(home.objects, f"{FOLDER}/{name}", LeaseRecord)
    # A holder who renews writes the next record before the one before goes.
    while number := ledger.last():
        if record := ledger.get(number):
            return record
    return None


def living(home: Home) -> dict[str, LeaseRecord]:
    """Leases whose holders are alive, by name."""
    found = {name: last(home, name) for name in home.objects.names(FOLDER)}
    return {name: record for name, record in found.items() if record and alive(record)}


def dead(home: Home) -> list[str]:
    """Names of leases that dead holders left."""
    found = {name: last(home, name) for name in home.objects.names(FOLDER)}
    return [name for name, record in found.items() if record and not alive(record)]


def alive(record: LeaseRecord) -> bool:
    """Whether the holder may still be at work.

    A lease that lasts much longer than any is given for was written before a clock was set back: it counts as over.
    """
    remaining = record.expires_at - datetime.now(UTC)
    if not timedelta(0) < remaining <= 2 * TERM:
        return False
    place, _ = _here()
    return record.place != place or _started(record.pid) == record.started


@cache
def _place() -> str:
    parts = [socket.gethostname()]
    # Without these, where there is no Linux, the machine's name has to do.
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return "|".join(parts)


def _here() -> tuple[str, str]:
    return _place(), _started(os.getpid()) or ""


def _started(pid: int) -> str | None:
    """When process ``pid`` started; None if there is none, or only what a killed one leaves until its parent looks."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except (OSError, IndexError):
        return None
    else:
        return None if fields[0] in "ZX" else fields[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "unknown"
