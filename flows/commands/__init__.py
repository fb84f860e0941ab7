"""One file a command. Each imports what it needs when it runs, so that reading commands start quickly."""

import os

from store.home import Home


def home_uri() -> str:
    """The place that ``--home`` or ``TAPSTATE_HOME`` names."""
    return os.environ["TAPSTATE_HOME"]


def open_home() -> Home:
    """The home there.

    Raises:
        HomeError: there is none.
    """
    return Home(home_uri())
