"""Pseudonyms looked up: whose they are at a version, and what is no pseudonym, or more than one user's."""

from collections.abc import Callable
from typing import Any

import pytest

from schemas.errors import InputError, NotFoundError
from schemas.records import VersionRecord
from store.bearers import bearer
from store.home import Home
from store.pseudonyms import Pseudonyms, is_name
from store.tables import Tables

Night = Callable[..., VersionRecord | None]


def row(user: str, **fields: Any) -> dict[str, Any]:
    return {"user_id": user, "event_id": "e", "ts": 1_700_000_000, "text": "t", **fields}


def test_whose_a_pseudonym_is_at_a_version(home: Home, put: Any, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    # A batch of one row each.
    monkeypatch.setitem(Tables.scan.__kwdefaults__, "batch_rows", 1)
    people = ["alice", 'bób\'s "friend"', "gone", "U" * 60]
    put(home, [row(user) for user in people])
    night(home)
    put(home, [row("gone", op="delete"), row("late"), row("alice", event_id="f", ts=1_700_000_100)], name="more.jsonl")
    night(home)
    name = Pseudonyms(home).name
    looked: list[int] = []
    assert [bearer(home, name(user), 1, looked.append) for user in people] == people
    assert looked == [1] * 16
    assert [bearer(home, name(user)) for user in ("alice", "late")] == ["alice", "late"]
    for version, user in ((1, "late"), (2, "gone"), (2, "nobody")):
        with pytest.raises(NotFoundError, match=f"no user of version {version} bears the pseudonym {name(user)}") as error:
            bearer(home, name(user), version)
        assert "--version N" in error.value.mend
    # Anything else is an id, and is not looked up.
    one = name("alice")
    for text in ("alice", "nobody", one.upper(), one[:-1], f"{one}0", f"{one}\n", f" {one}", ""):
        assert not is_name(text)
        assert bearer(home, text, 99) == text


def test_a_user_of_that_very_id_comes_first(home: Home, put: Any, night: Night) -> None:
    put(home, [row("alice")])
    night(home)
    name = Pseudonyms(home).name("alice")
    assert bearer(home, name) == "alice"
    put(home, [row(name)], name="more.jsonl")
    night(home)
    assert bearer(home, name, 1) == bearer(home, name, 2) == name
    assert bearer(home, Pseudonyms(home).name(name)) == name


def test_several_bearers_are_named_and_none_is_chosen(home: Home, put: Any, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two of 17 users share a digit; twelve digits are shared among very many only.
    monkeypatch.setattr("store.pseudonyms.SHOWN", 1)
    people = [f"u{n}" for n in range(17)]
    put(home, [row(user) for user in people])
    night(home)
    names = Pseudonyms(home).name
    shared = next(names(user) for n, user in enumerate(people) if names(user) in map(names, people[:n]))
    those = sorted(user for user in people if names(user) == shared)
    with pytest.raises(InputError) as error:
        bearer(home, shared)
    assert error.value.what == f"{len(those)} users of version 1 bear the pseudonym {shared}: {', '.join(map(repr, those))}"
