"""Hashes that other languages and later releases must reproduce."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas.keys import content_hash, user_hash, user_key


def test_user_hash_is_golden() -> None:
    assert user_hash("alice") == (3159282601090220207, 1882437791190049705)
    assert user_key("bob") == -9100024591961372966


@given(st.text())
def test_user_hash_is_sha256_read_as_numbers(user: str) -> None:
    digest = hashlib.sha256(user.encode()).digest()[:16]
    assert list(user_hash(user)) == np.frombuffer(digest, ">i8").tolist()


def test_content_hash_keeps_parts_apart() -> None:
    assert content_hash("a", "b") != content_hash("ab")
    assert content_hash("ab", "") != content_hash("a", "b")
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    assert content_hash(b"a") == content_hash("a")
    assert len(content_hash("a")) == 64
