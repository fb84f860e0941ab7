"""The demo: the whole job on generated histories, nothing canned."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from rich.table import Table

from flows.console import Bars, Output, emit, note, stdout
from flows.prefect_home import settle
from pipelines.sources.synthetic import SyntheticSource
from schemas.config import Config
from store.home import Home

USERS, DAYS, NIGHTS, DAILY = 3_000, 60, 3, 0.6
#: Held-out events that the table is computed on: the day after the last night.
JUDGED = 1_000


def run_demo(seed: int, directory: str, output: Output) -> None:
    """Generate, train, refresh three nights, bundle, and print what it is worth."""
    place = Path(directory or tempfile.mkdtemp(prefix="tapstate-demo-"))
    try:
        result = _run(place / "home", seed)
    finally:
        if not directory:
            shutil.rmtree(place, ignore_errors=True)
    if output is Output.json:
        emit(result, output)
        return
    table = Table(title="the day after: held-out events, prefixes from the bundle", title_justify="left")
    for column in ("prefix of", "target loss", "exact answers"):
        table.add_column(column, justify="left" if column == "prefix of" else "right")
    names = {"right": "the right user", "default": "an unknown user (default)", "wrong": "another user"}
    for arm, name in names.items():
        table.add_row(name, f"{result['loss'][arm]:.3f}", f"{result['accuracy'][arm]:.1%}")
    stdout.print(table)
    night, rebuild = result["night"]["incremental_seconds"], result["night"]["rebuild_seconds"]
    stdout.print(
        f"a night costs {night:.2f} s, a full rebuild {rebuild:.2f} s; a user takes {result['bytes_per_user']:,} bytes in the bundle"
    )
    if directory:
        stdout.print(f"the home is {place / 'home'}: try tapstate --home {place / 'home'} versions")


def _run(place: Path, seed: int) -> dict[str, Any]:
    home, _ = Home.create(str(place), Config(seed=seed))
    settle(home)
    from encoders.llm import FrozenLLM
    from flows.nightly import nightly
    from pipelines.evaluate import evaluate_bundle
    from pipelines.fit import fit
    from pipelines.ingest import ingest
    from store.client import Bundle
    from store.models import Models

    past = SyntheticSource(USERS, 0, DAYS - NIGHTS, DAYS + 1, DAILY, seed)
    with Bars() as meter:
        note(f"{USERS:,} users, {DAYS} days of generated histories; seed {seed}")
        record, _ = ingest(home, past, historical=True, meter=meter)
        note(f"ingested {record.accepted:,} events of {DAYS - NIGHTS} days; training against a small LLM made from them")
        fitted = fit(home, home.config, meter=meter)
    first = nightly(home.uri, bundle=False)
    note(f"version {first['version']}: {first['users']:,} users from all events")
    for day in range(DAYS - NIGHTS, DAYS):
        ingest(home, replace(past, first_day=day, last_day=day + 1), historical=True)
        night = nightly(home.uri, bundle=day == DAYS - 1)
        note(f"night {day}: {night['events_new']:,} events, {night['users_changed']:,} users changed, {night['texts_encoded']} new texts")
    bundle = Bundle.open(f"{home.uri}/bundles")
    bundle.verify()
    judged = next(iter(replace(past, first_day=DAYS, last_day=DAYS + 1).batches())).rows.head(JUDGED)
    llm = FrozenLLM.load(home.config.llm.model_copy(update={"model": str(Models(home).directory(fitted.llm["fingerprint"]))}))
    found = evaluate_bundle(bundle, llm, judged.select("user_id", "ts", "text", pl.col("target")), seed=seed)
    # The same kind of night twice, each without its bundle: one day's events against all of them.
    ingest(home, replace(past, first_day=DAYS, last_day=DAYS + 1), historical=True)
    incremental = nightly(home.uri, bundle=False)
    rebuild = nightly(home.uri, full=True, bundle=False)
    files = bundle.manifest["files"]
    states = sum(files[file["name"]]["bytes"] for file in bundle.manifest["states"]["files"])
    return {
        **found,
        "night": {"incremental_seconds": incremental["seconds"], "rebuild_seconds": rebuild["seconds"]},
        "bytes_per_user": round(states / len(bundle)),
    }
