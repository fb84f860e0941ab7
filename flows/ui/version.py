"""One version: its figures, checks and stages, and its report."""

from typing import Any

from nicegui import app, ui
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from flows.ui.frame import Console, chart, frame, grid, heading
from flows.ui.moves import promote_button
from schemas.errors import NotFoundError
from schemas.records import VersionRecord
from store import reports
from store.home import Home
from store.versions import aliases, counts, resolve

#: What a report's page may do: show itself, in the console alone.
SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"


def register(console: Console) -> None:
    """The pages at ``/version/N`` and ``/report/N``."""

    @ui.page("/version/{number}")
    async def page(number: int) -> None:
        with frame(console, f"Version {number}"):
            found = await console.load(_read, number)
            if found is None:
                return
            record, figures, names, reported = found
            with ui.row().classes("items-center gap-4 mt-4"):
                ui.label(f"Version {number}").classes("text-2xl")
                for name, version in names.items():
                    if version == number:
                        ui.badge(name, color="primary")
                promote_button(console, record, names)
            with ui.row().classes("w-full gap-8 items-start"):
                with ui.column().classes("grow"):
                    heading("Figures")
                    grid([{"figure": k, "value": v} for k, v in figures.items()], "", mark="figures")
                with ui.column().classes("grow"):
                    heading("Checks", "a version that fails one is kept, and not promoted")
                    checks = [{"check": c.name, "value": c.value, "limit": c.limit, "passed": c.passed} for c in record.checks]
                    grid(checks, "none were made", mark="checks")
                    _stages(record)
            heading("Report")
            if reported:
                ui.link("open it alone", f"/report/{number}", new_tab=True).mark("report")
                ui.element("iframe").props(f'src="/report/{number}" sandbox title="report of version {number}"').classes(
                    "w-full border"
                ).style("height: 80vh; background: white")
            else:
                ui.label(f"None is stored. Make it with: tapstate report {number}").classes("italic opacity-70")

    @app.get("/report/{number}")
    def report(number: int) -> Response:
        data = console.home().objects.get(reports.page(number))
        if data is None:
            return PlainTextResponse("no report of that version", 404)
        return HTMLResponse(data, headers={"content-security-policy": SANDBOX, "cache-control": "no-store"})


def _read(home: Home, number: int) -> tuple[VersionRecord, dict[str, Any], dict[str, int | None], bool]:
    if home.versions.get(number) is None:
        raise NotFoundError(f"no version {number}", where=home.uri, mend="the page Versions lists them")
    record = resolve(home, number)
    users, events = counts(home, record)
    figures = {
        "created (UTC)": record.created_at,
        "by": record.created_by,
        "code": record.code,
        "personalizer": record.personalizer + ("" if record.trained else ", untrained"),
        "line (aggregator)": record.aggregator[:16],
        "encoder": record.encoder[:16],
        "parent": record.parent,
        "as of (UTC)": record.as_of,
        "last ingest": record.last_ingest,
        "users": users,
        "users changed": record.users_changed,
        "events": events,
        "events new": record.events_new,
        "texts encoded": record.texts_encoded,
        "texts found in the cache": record.cache_hits,
        "seconds": record.seconds,
    }
    named: dict[str, int | None] = {name: version for version, names in aliases(home).items() for name in names}
    return record, figures, named, reports.page(number) in reports.pages(home)


def _stages(record: VersionRecord) -> None:
    heading("Stages", "seconds of all shards together; on several workers more than the clock's time")
    if not record.stages:
        ui.label("not recorded").classes("italic opacity-70")
        return
    rows = [
        {"stage": k, "shards": s.shards, "seconds": round(s.seconds, 3), "longest shard": round(s.longest, 3)}
        for k, s in record.stages.items()
    ]
    grid(rows, "", mark="stages")
    chart(
        {
            "grid": {"left": 70, "right": 20, "top": 5, "bottom": 40},
            "xAxis": {"type": "value", "name": "seconds", "nameLocation": "middle", "nameGap": 25},
            "yAxis": {"type": "category", "data": [r["stage"] for r in rows], "inverse": True},
            "series": [{"type": "bar", "data": [r["seconds"] for r in rows], "barMaxWidth": 22, "itemStyle": {"color": "#4c8cc4"}}],
        },
        40 * len(rows) + 60,
    )
