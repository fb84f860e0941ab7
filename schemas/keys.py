"""Hashes: which are contracts with other languages, which are only ours.

``user_hash`` is a contract (bundles are sorted by it): the first and the second 8 bytes of SHA-256 of the UTF-8 user id,
as big-endian signed integers. ``content_hash`` names models, encoders and bundles.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping


def user_hash(user_id: str) -> tuple[int, int]:
    """Key and check of one user id, both int64: bundles are sorted by the key, the check tells two users of one key apart."""
    digest = hashlib.sha256(user_id.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True), int.from_bytes(digest[8:16], "big", signed=True)


def user_key(user_id: str) -> int:
    """int64 key of one user id. Filters carry this number, never the id."""
    return user_hash(user_id)[0]


def content_hash(*parts: bytes | str | Mapping[str, object] | Iterable[object]) -> str:
    """SHA-256 (hex) of the parts; mappings and lists count as canonical JSON."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            part = part.encode()
        elif not isinstance(part, bytes):
            part = json.dumps(part, sort_keys=True, separators=(",", ":")).encode()
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()
