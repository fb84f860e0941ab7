"""Where Prefect keeps its things, decided before Prefect is imported.

Its home lies under ours, nothing is sent to anyone, and without a configured server it starts a temporary one.
"""

import os
import tempfile
from pathlib import Path

from store.home import Home


def place(home: Home) -> Path:
    """Where Prefect keeps its database, results and logs of this home's flows."""
    if set_by_user := os.environ.get("PREFECT_HOME"):
        return Path(set_by_user)
    return Path(tempfile.gettempdir()) / f"tapstate-prefect-{home.record.home_id}" if home.objects.remote else Path(home.uri) / "prefect"


def settle(home: Home) -> None:
    """Set Prefect's environment for work on ``home``; what the user has set stays."""
    defaults = {
        "PREFECT_HOME": str(place(home)),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
