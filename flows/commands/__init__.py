"""One file a command. Each imports what it needs when it runs: help, completion and reading commands start quickly."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from flows import completion
from flows.console import Bars, note

if TYPE_CHECKING:
    from store.home import Home

VersionOption = Annotated[
    str | None, typer.Option(help="Number, alias or moment. (default: production)", autocompletion=completion.versions)
]
UserArgument = Annotated[str, typer.Argument(help="User id, or the pseudonym that a report or a log names.")]
PullerOption = Annotated[
    str | None, typer.Option("--as", metavar="NAME", help="Who pulls, for the home's record. (default: the user that runs this)")
]


def home_uri() -> str:
    """The place that ``--home`` or ``TAPSTATE_HOME`` names."""
    return os.environ["TAPSTATE_HOME"]


def open_home() -> "Home":
    """The home there.

    Raises:
        HomeError: there is none.
    """
    from store.home import Home

    return Home(home_uri())


def meant(home: "Home", user: str, version: str | int | None = None) -> str:
    """The id of the user who is meant, and a line that tells it where a pseudonym was given.

    Raises:
        NotFoundError, InputError: as ``store.bearers.bearer``.
    """
    from store.bearers import bearer
    from store.pseudonyms import is_name

    if not is_name(user):
        return user
    with Bars() as meter:
        meter.start("users", None, "users")
        found = bearer(home, user, version, lambda rows: meter.advance("users", rows))
        meter.finish("users")
    if found != user:
        note(f"{user} is {found}")
    return found
