"""Report: a version's figures as one page that needs no network and runs no script, written into the home or elsewhere.

Pages hold figures of users, under pseudonyms: an erasure deletes all of them, and one that is written meanwhile is made again.
"""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from pipelines.figures import figures
from pipelines.plots import drawings
from schemas.errors import ConflictError, InputError
from schemas.records import VersionRecord
from schemas.report import Report
from store.comparison import Comparison
from store.home import Home
from store.reports import page

#: Times that a page is made again because users were erased meanwhile.
TURNS = 5


def write_report(
    home: Home,
    version: VersionRecord,
    base: VersionRecord | None = None,
    *,
    to: Path | None = None,
    known: Mapping[int, Comparison] | None = None,
) -> tuple[str, Report]:
    """Make a version's report; where its page is, and its figures.

    Args:
        base, known: as ``figures`` takes them.
        to: a file for the page; by default its place in the home.

    Raises:
        InputError: ``to`` cannot be written.
        ConflictError: users are being erased all the while.
        HomeError: the home cannot be read or written.
    """
    path = page(version.number, base.number if base else None)
    for _ in range(TURNS):
        erased = home.erasures.last()
        report = figures(home, version, base, known)
        html = render(report)
        if to:
            try:
                to.write_text(html, encoding="utf-8")
            except OSError as error:
                raise InputError(f"cannot write the page: {error}", where=str(to), mend="another --to FILE") from error
            return str(to), report
        home.objects.put(path, html.encode())
        if home.erasures.last() == erased:
            return f"{home.uri}/{path}", report
        # The erasure may have looked for pages before this one was there.
        home.objects.remove(path)
        known = None
    raise ConflictError(
        "users are being erased while the report is made", where=f"{home.uri}/{path}", mend=f"tapstate report {version.number}"
    )


def render(report: Report) -> str:
    """The page."""
    data = json.loads(report.model_dump_json())
    return _template().render(report=report, data=data, look=lambda at: _look(data, at), drawings=drawings(report))


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = shown
    return environment.get_template("report.html")


def _look(data: Any, at: str) -> Any:
    """What stands at a place of the JSON: ``drift/0/base``."""
    for step in at.split("/"):
        data = data[int(step)] if isinstance(data, list) else data[step]
    return data


def shown(value: Any, how: str) -> str:
    """A figure as people read it."""
    if how == "value":
        return "–" if value is None else json.dumps(value, ensure_ascii=False).strip('"')
    if value is None:
        return "–"
    if how == "moment":
        return datetime.fromisoformat(value).strftime("%Y-%m-%d %H:%M UTC")
    if isinstance(value, str):
        # JSON has no infinities; they come as text.
        return {"Infinity": "∞", "-Infinity": "−∞"}.get(value, "not a number")
    if how == "percent":
        return f"{value:.1%}"
    if how == "seconds":
        return f"{value / 60:,.1f} min" if value >= 120 else f"{value:,.1f} s" if value >= 10 else f"{value:.3g} s"
    if isinstance(value, int):
        return f"{value:,}"
    # Thousands are told in full, the rest by four digits.
    return f"{value:,.0f}" if abs(value) >= 10_000 and math.isfinite(value) else f"{value:.4g}"
