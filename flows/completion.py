"""What the shell offers where a version, an alias, a line, a head or a bundle is to be typed.

Quick and quiet: it lists names and reads a few small objects, without Lance, Polars or a model, for at most ``PATIENCE`` seconds.
Where there is no home, no network, or nothing that can be read, it offers nothing.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from store.objects import Objects

#: Seconds that a shell is kept waiting, and values that it is offered at most.
PATIENCE, MOST = 2.0, 100
#: Set by the shell's script; ``complete_…`` asks for values, ``source_…`` for the script itself.
ASKED = "_TAPSTATE_COMPLETE"
#: Shells evaluate what they are offered: of what others may have written into the home, plain words only.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

#: A value and what a shell may show beside it.
Offer = tuple[str, str]
Offers = Callable[[typer.Context, str], list[Offer]]


def answer(app: typer.Typer) -> NoReturn:
    """Give the shell what it asked for. An error in the middle of a command line would help nobody: there is none."""
    if "COMP_WORDS" in os.environ:
        with suppress(KeyError, ValueError):
            words, at = rejoined(os.environ["COMP_WORDS"], int(os.environ["COMP_CWORD"]))
            os.environ.update(COMP_WORDS=words, COMP_CWORD=str(at))
    code: object = 1
    with open(os.devnull, "w") as nothing, redirect_stderr(nothing):
        try:
            app(prog_name="tapstate")
        except SystemExit as end:
            code = end.code or 0
        except Exception:
            code = 1
    sys.stdout.flush()
    # At once: a look at a store that does not answer is left where it is.
    os._exit(code if isinstance(code, int) else 1)


def rejoined(words: str, at: int) -> tuple[str, int]:
    """Words of a command line, one a line, and the number of the one being typed, as they were before bash broke them at = and :."""
    whole: list[str] = []
    place, glue, parts = 0, False, words.split("\n")
    for number, word in enumerate(parts):
        sign = bool(word) and not word.strip("=:")
        if whole and (sign or glue):
            whole[-1] += word
        else:
            whole.append(word)
        glue = sign
        if number == at:
            place = len(whole) - 1
    return "\n".join(whole), place if at < len(parts) else len(whole)


def _offers(look: Callable[["Objects"], Iterable[Offer]], option: str = "") -> Offers:
    """Offers that ``look`` finds in the home, or in the place that ``option`` of the same command names."""

    def offer(context: typer.Context, incomplete: str) -> list[Offer]:
        found: list[Offer] = []

        def within() -> None:
            with suppress(Exception):
                found.extend(offer for offer in look(_place(context, option)) if _WORD.fullmatch(offer[0]))

        thread = Thread(target=within, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        return [offer for offer in found if offer[0].startswith(incomplete)][:MOST]

    return offer


def _place(context: typer.Context, option: str) -> "Objects":
    """The place that is typed, as the shell would expand it; looking must not make a directory."""
    from store.objects import Objects

    typed = context.params.get(option) if option else None
    uri = os.path.expanduser(os.path.expandvars(typed or context.find_root().params["home"]))
    if "://" not in uri and not Path(uri).is_dir():
        raise FileNotFoundError(uri)
    return Objects(uri if typed or not option else f"{uri}/bundles")


def _numbers(objects: "Objects", folder: str) -> list[int]:
    stems = (name.removesuffix(".json") for name in objects.names(folder))
    return sorted((int(stem) for stem in stems if stem.isdecimal()), reverse=True)


def _record(objects: "Objects", path: str) -> dict[str, Any]:
    return dict(json.loads(objects.get(path) or b"{}"))


def _newest(objects: "Objects", folder: str) -> dict[str, Any]:
    numbers = _numbers(objects, folder)
    return _record(objects, f"{folder}/{numbers[0]}.json") if numbers else {}


def _aliases(objects: "Objects") -> list[Offer]:
    names = objects.names("aliases")
    return [(name, f"version {int(_newest(objects, f'aliases/{name}')['version'])}") for name in names]


def _versions(objects: "Objects") -> list[Offer]:
    """Aliases, then the newest versions that can be read."""
    gone = set(_numbers(objects, "retired"))
    return [*_aliases(objects), *((str(number), "version") for number in _numbers(objects, "versions") if number not in gone)]


def _lines(objects: "Objects") -> list[Offer]:
    """Hashes by their beginnings, those opened last first."""
    opened = [_record(objects, f"lines/{number}.json")["aggregator"] for number in _numbers(objects, "lines")]
    newest = _newest(objects, "versions").get("aggregator")
    hashes = dict.fromkeys([*opened, *([newest] if newest else [])])
    return [("production", "line"), ("candidate", "line"), *((line[:12], "line") for line in hashes)]


def _heads(objects: "Objects") -> list[Offer]:
    return [(name, "head") for name in objects.names("models") if objects.get(f"models/{name}/head.json") is not None]


def _bundles(objects: "Objects") -> list[Offer]:
    current = (objects.get("CURRENT") or b"").decode(errors="replace").strip()
    return [(name, "CURRENT" if name == current else "bundle") for name in objects.names("") if name != "CURRENT"]


versions, aliases, lines, heads = _offers(_versions), _offers(_aliases), _offers(_lines), _offers(_heads)
#: Of the place that ``pull --from`` names, else of the home.
bundles = _offers(_bundles, "source")
