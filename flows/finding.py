"""A finding of the doctor."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]
#: Mends that a package is not there which only what makes versions needs.
EVERYTHING = "pip install 'tapstate[pipeline]'"


@dataclass(frozen=True)
class Finding:
    """One look: ``ok``, ``warn`` (somebody should look), or ``fail`` (nights or answers are wrong), and what mends it."""

    check: str
    status: Status
    found: str
    mend: str = ""
