"""Errors say what, where and how to mend it, also after a journey between processes."""

import copy
import pickle

import pytest

from schemas import errors
from schemas.errors import TapstateError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TapstateError)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("carry", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_errors_travel_whole(kind: type[TapstateError], carry: object) -> None:
    error = kind("it broke", where="here", mend="tapstate mend")
    found = carry(error)  # type: ignore[operator]
    assert type(found) is kind
    assert (found.what, found.where, found.mend, found.exit_code) == ("it broke", "here", "tapstate mend", kind.exit_code)
    assert str(found) == str(error) == "it broke (here)\n  mend: tapstate mend"


def test_exit_codes_are_those_of_the_manual() -> None:
    assert {kind.__name__: kind.exit_code for kind in KINDS if kind.exit_code != 1} == {
        "ConfigError": 2,
        "ConflictError": 4,
        "CheckError": 5,
    }
    assert str(TapstateError("plain")) == "plain"
