"""Nights: what runs now, what was left half done, and what past nights took."""

from typing import Any

from nicegui import ui

from flows.ui.frame import BLUE, ORANGE, Console, bars, frame, grid, heading
from schemas.records import VersionRecord
from store.home import Home
from store.lease import dead, last, living
from store.pages import newest_first
from store.sweep import pending

#: Past nights shown, and seconds between looks at what runs.
NIGHTS, EVERY = 30, 10.0


def register(console: Console) -> None:
    """The page at ``/nights``."""

    @ui.page("/nights")
    async def page() -> None:
        with frame(console, "Nights"):

            @ui.refreshable
            async def now() -> None:
                found = await console.load(_running)
                if found is not None:
                    held, plans = found
                    heading("Running", "who holds a lease; one whose holder is dead is taken over by the next night")
                    grid(held, "Nothing is running.", mark="leases")
                    heading("Pending plans", "nights that were begun and not finished; the next refresh goes on with them")
                    grid(plans, "No night is unfinished.", mark="plans")

            await now()
            ui.timer(EVERY, now.refresh, immediate=False)
            past = await console.load(_past)
            if past is None:
                return
            heading("Past nights", f"the newest {NIGHTS}, retired versions included")
            _chart(past)
            rows = [{**_row(record), "_link": f"/version/{record.number}"} for record in past]
            grid(rows, "No night yet: tapstate refresh.", links={"version": "_link"}, mark="nights")


def _running(home: Home) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    alive = living(home)
    gone = {name: record for name in dead(home) if (record := last(home, name))}
    held = [
        {
            "work": record.work,
            "lease": name,
            "state": "running" if name in alive else "holder is dead",
            "by": record.created_by,
            "process": str(record.pid),
            "since (UTC)": f"{record.taken_at or record.created_at:%Y-%m-%d %H:%M:%S}",
            "renewed (UTC)": f"{record.created_at:%Y-%m-%d %H:%M:%S}",
            "until (UTC)": f"{record.expires_at:%Y-%m-%d %H:%M:%S}",
        }
        for name, record in {**alive, **gone}.items()
    ]
    plans = []
    for folder, plan in pending(home).items():
        files = home.objects.names(f"plans/{folder}")
        plans.append(
            {
                "line": plan.aggregator[:8],
                "kind": plan.kind,
                "after version": plan.parent,
                "ingests": f"{plan.first_ingest + 1} … {plan.last_ingest}",
                "shards": len(plan.shards) + len(plan.texts),
                "done": sum(name.endswith(".json") and name != "plan.json" for name in files),
                "failed": sum(name.endswith(".failed") for name in files),
                "plan": folder,
            }
        )
    return held, plans


def _past(home: Home) -> list[VersionRecord]:
    return [record for record, _ in zip(newest_first(home.versions), range(NIGHTS), strict=False)]


def _row(record: VersionRecord) -> dict[str, Any]:
    looked = record.texts_encoded + record.cache_hits
    return {
        "version": record.number,
        "created (UTC)": record.created_at,
        "line": record.aggregator[:8],
        "events new": record.events_new,
        "users changed": record.users_changed,
        "texts encoded": record.texts_encoded,
        "cache hits": f"{100 * record.cache_hits / looked:.1f} %" if looked else "–",
        "shards": sum(stage.shards for stage in record.stages.values()),
        "seconds": round(record.seconds, 1),
        "failed checks": ", ".join(check.name for check in record.checks if not check.passed),
    }


def _chart(past: list[VersionRecord]) -> None:
    if not past:
        return
    nights = list(reversed(past))
    seconds, events = [round(r.seconds, 2) for r in nights], [r.events_new for r in nights]
    bars([str(r.number) for r in nights], {"seconds": (seconds, BLUE), "events new": (events, ORANGE)})
