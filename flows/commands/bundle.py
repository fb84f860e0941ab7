"""``tapstate bundle``: a version for serving; ``verify`` and ``diff`` of bundles that are there. ``tapstate pull`` fetches them."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows import completion
from flows.commands import PullerOption, VersionOption, home_uri, open_home
from flows.console import Bars, Output, OutputOption, emit, note

app = typer.Typer(invoke_without_command=True, help="Write a version's bundle and let CURRENT name it; verify and diff bundles.")
Place = Annotated[Path, typer.Argument(help="A bundle, or a directory whose CURRENT names one.")]


@app.callback()
def bundle(
    context: typer.Context,
    version: VersionOption = None,
    head: Annotated[
        str,
        typer.Option(
            help="Hash of the head, for another LLM (train --head-only); CURRENT stays. (default: in use)", autocompletion=completion.heads
        ),
    ] = "",
    states: Annotated[Literal["float16", "int8"] | None, typer.Option(help="Precision. (default: bundle.states)")] = None,
    delta: Annotated[
        bool | None, typer.Option("--delta/--full", help="Only what changed since CURRENT, or all. (default: as bundle.layers allows)")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Write a version's bundle and let CURRENT name it."""
    if context.invoked_subcommand:
        return
    from flows import datasets, lineage
    from pipelines.encoder import KnownEncoder
    from pipelines.publish import publish
    from store.lines import Lines
    from store.models import Models
    from store.versions import resolve

    home = open_home()
    record = resolve(home, version)
    read = datasets.states(home, record, Models(home).spec(record.aggregator))
    with lineage.run("bundle", [read]) as told, Bars() as meter:
        encoder = KnownEncoder(home, Lines(home).encoder(record.aggregator))
        uri, manifest = publish(home, record, encoder, meter, precision=states, delta=delta, head=head or None)
        told.writes = [datasets.bundle(uri, manifest)]
    written = sum(manifest["files"][file["name"]]["bytes"] for file in manifest["states"]["files"])
    users = sum(file["users"] for file in manifest["states"]["files"])
    emit(
        {
            "bundle": uri,
            "bundle_id": manifest["bundle_id"],
            "version": record.number,
            "users": manifest["users"],
            "head": manifest["head"],
            "llm": manifest["llm"]["model"],
            **({"tasks": manifest["tasks"]} if "tasks" in manifest else {}),
            "bytes_per_user": round((written + manifest["files"]["index.arrow"]["bytes"]) / max(1, users)),
            "base": manifest["base"]["name"] if manifest["base"] else None,
        },
        output,
    )


@app.command("verify")
def verify(place: Place, output: OutputOption = Output.table) -> None:
    """Check every block of every file, of the bases too, and the golden answers."""
    from store.client import Bundle

    found = Bundle.open(place)
    found.verify()
    manifests = [layer.manifest for layer in found.layers]
    emit(
        {
            "bundle": str(found.path),
            "bundle_id": found.bundle_id,
            "version": found.manifest["version"],
            "users": len(found),
            **({"tasks": found.tasks} if found.tasks else {}),
            "layers": len(manifests),
            "files": sum(len(manifest.files) for manifest in manifests),
            "bytes": sum(file.bytes for manifest in manifests for file in manifest.files.values()),
            "whole": True,
        },
        output,
    )


@app.command("diff")
def diff(one: Place, other: Place, output: OutputOption = Output.table) -> None:
    """What another bundle answers differently: users who came, went, were erased or changed, and other parts of the model."""
    from store.client import Bundle
    from store.differences import differences

    emit(differences(Bundle.open(one), Bundle.open(other)), output)


@app.command("pulls")
def pulls(
    top: Annotated[int, typer.Option(min=1, help="How many, the newest.")] = 50,
    output: OutputOption = Output.table,
) -> None:
    """Who pulled bundles from the home's shelf. Whoever may only read there leaves no record, nor does who serves it in its place."""
    from store.pulls import latest

    rows = [record.model_dump(mode="json", exclude={"code"}) for record in latest(open_home(), top)]
    emit(rows, output, title=f"{len(rows)} pulls, newest first")


def pull(
    directory: Annotated[Path, typer.Argument(help="Where a client will open it; CURRENT there is swapped last.")],
    source: Annotated[str, typer.Option("--from", help="Directory or object-store URI of bundles. (default: those of the home)")] = "",
    name: Annotated[
        str | None, typer.Option(help="A bundle there. (default: the one that CURRENT names)", autocompletion=completion.bundles)
    ] = None,
    by: PullerOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Fetch the bundle to serve, and what it stands on, checked block by block; what is there already is not fetched again."""
    from store.pull import pull as fetch

    pulled = fetch(source or f"{home_uri()}/bundles", directory, name, by)
    recorded = bool(pulled.fetched) and not pulled.unrecorded
    told: dict[str, Any] = {"bundle": str(pulled.path), "fetched": list(pulled.fetched), "bytes": pulled.bytes, "recorded": recorded}
    emit(told, output)
    if pulled.unrecorded:
        note(f"who pulled is not recorded: {pulled.unrecorded}")
