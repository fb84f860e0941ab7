"""One file a command. Each imports what it needs when it runs: help, completion and reading commands start quickly."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from flows import completion

if TYPE_CHECKING:
    from store.home import Home

VersionOption = Annotated[
    str | None, typer.Option(help="Number, alias or moment. (default: production)", autocompletion=completion.versions)
]
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
