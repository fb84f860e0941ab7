"""The night as a Prefect flow: one task a stage, retried with back-off, with artifacts that say what was done."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run

from flows import datasets, lineage
from flows.console import Bars, note
from flows.stages import stage, stage_task
from pipelines.checks import complaint
from pipelines.engines import Engine, new_engine
from pipelines.publish import publish, shelved
from pipelines.refresh import Refresh
from pipelines.report import write_report
from schemas.config import EngineConfig
from schemas.errors import CheckError, ConflictError
from schemas.records import VersionRecord
from schemas.report import Report
from store.comparison import Comparison
from store.home import Home
from store.lease import lease
from store.lines import CANDIDATE, Lines
from store.reports import page, pages
from store.versions import PRODUCTION, current, held, promote


def _aside(home: Home, version: VersionRecord, known: Mapping[int, Comparison]) -> None:
    """Report, as a task that may fail alone: the version stands, and what follows goes on."""
    state = stage_task("report", lambda: _report(home, version, known))(return_state=True)
    if not state.is_completed():
        error = state.result(raise_on_failure=False)
        _warn(f"no report of version {version.number}: {error}\n  mend: tapstate report {version.number}")


def _warn(text: str) -> None:
    """Tell both the run's log, which Prefect's pages show, and whoever watches."""
    get_run_logger().error(text)
    note(text)


@flow(name="nightly", persist_result=False)
def nightly(
    home: str,
    full: bool = False,
    bundle: bool = True,
    line: str | None = None,
    engine: str | None = None,
    runner: str | None = None,
    options: list[str] | None = None,
) -> dict[str, Any]:
    """Refresh a home's lines, production's first: plan, encode, update, commit and check, promote, bundle.

    Args:
        home: directory or object-store URI of the home.
        full: rebuild every user from all events.
        bundle: also publish a serving bundle, where a trained head fits.
        line: refresh this one alone: ``production``, ``candidate`` or the beginning of its hash.
        engine, runner, options: where shards run; what is not given is as ``[engine]`` of the home's configuration says.

    Returns:
        ``version, parent, users, users_changed, events_new, texts_encoded, cache_hits, seconds, promoted`` of production's line or of
        ``line``; where there is a candidate beside production, the same of it under ``candidate``.

    Raises:
        CheckError: a check failed; the version is there, not promoted. Every line had its turn.
    """
    place = Home(home)
    lines, where = Lines(place), _engine(place, engine, runner, options)
    names = [lines.find(line)] if line else lines.live()
    found: list[dict[str, Any]] = []
    failed: CheckError | None = None
    with lineage.run("nightly", run_id=flow_run.id, warn=_warn) as night:
        for name in names:
            try:
                found.append(_refresh(home, name, where, night, full=full, bundle=bundle))
            except CheckError as error:
                failed = failed or error
        if failed:
            raise failed
    return {**found[0], **({CANDIDATE: found[1]} if len(found) > 1 else {})}


def _refresh(home: str, line: str | None, engine: Engine, night: lineage.Run, *, full: bool, bundle: bool) -> dict[str, Any]:
    began, started = time.monotonic(), datetime.now(UTC)
    place = Home(home)
    with lineage.run("refresh", [datasets.events(place, place.ingests.last())], within=night) as told, Bars() as meter:
        refresh = Refresh(place, full=full, line=line, engine=engine, meter=meter)
        short = refresh.aggregator_hash[:12]
        with lease(place, f"refresh-{short}", f"a refresh of line {short}"):
            planned = stage("plan", refresh.plan)
            if planned is None:
                assert refresh.parent is not None
                version = refresh.parent
                # A run that was killed once its version was written left the rest to do.
                promoted = stage("promote", lambda: _promote(place, version)) if _unpromoted(place, version) else False
                promoted = promoted or current(place, PRODUCTION) == version.number
                if page(version.number) not in pages(place):
                    _aside(place, version, {})
            else:
                folder, plan = planned
                encoded = stage("encode", lambda: refresh.encode(plan))
                shards = stage("update", lambda: refresh.update(folder, plan))
                version = stage("commit", lambda: refresh.commit(folder, plan, encoded, shards, started))
                told.reads = [datasets.events(place, version.last_ingest, version.events_new)]
                told.writes = [datasets.states(place, version, refresh.aggregator.spec, version.users_changed)]
                drift = {refresh.against: refresh.drift} if refresh.against and refresh.drift else {}
                _aside(place, version, drift)
                stage("check", lambda: _check(version, refresh.against))
                promoted = stage("promote", lambda: _promote(place, version))
            if bundle and promoted and not shelved(place, version):
                told.writes = [*told.writes, datasets.bundle(*stage("bundle", lambda: publish(place, version, refresh.encoder, meter)))]
    return _summary(version, began, fresh=planned is not None, promoted=promoted)


def _engine(home: Home, name: str | None, runner: str | None, options: list[str] | None) -> Engine:
    given = {"name": name, "runner": runner, "options": options}
    config = home.config.engine.model_dump() | {key: value for key, value in given.items() if value is not None}
    if name == "local" and options is None:
        config["options"] = ()
    return new_engine(EngineConfig(**config))


def _summary(version: VersionRecord, began: float, *, fresh: bool, promoted: bool) -> dict[str, Any]:
    night = {
        "users_changed": version.users_changed,
        "events_new": version.events_new,
        "texts_encoded": version.texts_encoded,
        "cache_hits": version.cache_hits,
    }
    return {
        "version": version.number,
        "parent": version.parent,
        "users": version.users,
        **{key: value if fresh else 0 for key, value in night.items()},
        "seconds": round(time.monotonic() - began, 3),
        "promoted": promoted,
    }


def _unpromoted(home: Home, version: VersionRecord) -> bool:
    """Whether the version passed its checks and ``production`` was not moved since it was made."""
    moves = home.aliases(PRODUCTION)
    move = moves.get(moves.last())
    return not complaint(version.checks) and (move is None or (move.version < version.number and move.created_at < version.created_at))


def _check(version: VersionRecord, against: int | None) -> None:
    if wrong := complaint(version.checks):
        raise CheckError(
            f"version {version.number} is kept but not promoted: {wrong}",
            where=f"version {version.number}",
            mend=f"look into {page(version.number)} of the home, or with "
            f"tapstate diff {against or version.number} {version.number}; if it is as it should be: "
            f"tapstate promote {version.number} --reason …, and change checks.* in config.toml",
        )


def _promote(home: Home, version: VersionRecord) -> bool:
    """Let the line's alias name the version, unless it names a newer one by now; whether that alias is ``production``."""
    production = Lines(home).production()
    # An untrained line serves nobody: the next line takes its place.
    ours = production is None or not production.trained or production.aggregator == version.aggregator
    alias = PRODUCTION if ours else CANDIDATE
    if back := held(home, alias):
        note(
            f"{alias} stays at version {back.version}, where {back.created_by} put it back ({back.reason}); "
            f"tapstate promote {version.number} --reason … ends that"
        )
        return False
    named = current(home, alias)
    if named is not None and named >= version.number:
        return ours and named == version.number
    try:
        promote(home, version.number, alias=alias, expected=named, reason="nightly refresh, checks passed")
    except ConflictError:
        return False
    return ours


def _report(home: Home, version: VersionRecord, known: Mapping[int, Comparison]) -> None:
    """The page in the home, and its main figures where Prefect's own pages show them."""
    path, found = write_report(home, version, known=known)
    note(f"report: {path}")
    work = found.work.model_dump()
    rows = [{"figure": name, "value": value} for name, value in {"users": version.users, "events": version.events, **work}.items()]
    create_table_artifact(rows, key="night", description=f"version {version.number}")
    stages = [stage.model_dump() for stage in found.stages]
    create_table_artifact(stages, key="stages", description="shards of each stage, the seconds they took together, and the longest")
    create_markdown_artifact(_summary_page(found, path), key="report")


def _summary_page(found: Report, path: str) -> str:
    """A report in a few lines of Markdown; the rest is on its page."""
    number, intake = found.version.number, found.intake
    sums = f"{intake.accepted:,} accepted + {intake.duplicate:,} duplicate + {intake.corrected:,} corrected + {intake.rejected:,} rejected"
    lines = [f"# Version {number}", "", f"Page: `{path}`", "", f"Read {intake.read:,} rows = {sums}."]
    lines += [f"- {rows:,} rejects: {reason}" for reason, rows in intake.reasons.items()]
    for drift in found.drift:
        moved = f"{drift.moved:,} users moved, " if drift.moved is not None else ""
        lines += ["", f"From version {drift.base} ({', '.join(drift.roles)}): {moved}neighbour overlap {drift.overlap:.4g}."]
    lines += ["", "| check | figure | limit | |", "|---|---|---|---|"]
    lines += [f"| {c.name} | {c.value:.4g} | {c.limit:.4g} | {'passed' if c.passed else '**failed**'} |" for c in found.checks]
    return "\n".join([*lines, *(["", *found.notes] if found.notes else [])])
