"""Pseudonyms: what logs, reports and receipts call a user. HMAC-SHA256 under a key of the home: who has not the key cannot
tell whose it is, not even by trying every id.
"""

import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from functools import cached_property

from schemas.errors import CorruptError
from store.home import Home

KEY = "keys/pseudonyms"
#: Hex digits of a tag: 128 bits, so that no two users share one.
TAG = 32
#: Hex digits that people see.
SHOWN = 12


class Pseudonyms:
    """Keyed tags and names of users and events.

    Args:
        home: the home; its key is made on first use.
    """

    def __init__(self, home: Home) -> None:
        self.home = home

    @cached_property
    def key(self) -> bytes:
        """The home's key, 32 bytes.

        Raises:
            CorruptError: it is not a key.
        """
        data = self.home.objects.get(KEY)
        if data is None:
            self.home.objects.create(KEY, secrets.token_hex(32).encode())
            data = self.home.objects.get(KEY)
        try:
            key = bytes.fromhex((data or b"").decode())
        except ValueError:
            key = b""
        if len(key) != 32:
            raise CorruptError("not a key of pseudonyms", where=f"{self.home.uri}/{KEY}", mend="restore the file from a backup of the home")
        return key

    def users(self, ids: Iterable[str | None]) -> list[str]:
        """Tags of users, hex."""
        return [self._tag(b"user:" + (user or "").encode()) for user in ids]

    def events(self, events: Iterable[tuple[str, str]]) -> list[str]:
        """Tags of ``(user_id, event_id)`` pairs, hex."""
        return [self._tag(f"event:{len(user.encode())}:{user}{event}".encode()) for user, event in events]

    def name(self, user_id: str) -> str:
        """What logs and reports call a user: ``user-3f9a…``."""
        return shown("user", self.users([user_id])[0])

    def bearers(self, ids: Sequence[str], name: str) -> list[str]:
        """Those of ``ids`` whom logs and reports call ``name``."""
        digits = name.removeprefix("user-")
        return [user for user, tag in zip(ids, self.users(ids), strict=True) if tag.startswith(digits)]

    def _tag(self, text: bytes) -> str:
        return hmac.digest(self.key, text, "sha256").hex()[:TAG]


def shown(kind: str, tag: str) -> str:
    """A tag as people see it."""
    return f"{kind}-{tag[:SHOWN]}"


def is_name(text: str) -> bool:
    """Whether a text has the exact form of a user's pseudonym; it may be some user's id all the same."""
    return re.fullmatch(rf"user-[0-9a-f]{{{SHOWN}}}", text) is not None
