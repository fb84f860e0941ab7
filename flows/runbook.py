"""The runbook in ``docs/``: what an error, a finding of the doctor and a check of a version mean, and what mends them.

Errors and findings say it in their own docstrings, in three paragraphs: what it means; ``See:`` what one meets; ``Mend:`` what to do.
"""

import inspect
from collections.abc import Iterator

from flows.console import EXIT_CODES
from flows.doctor import CHECKS
from pipelines.checks import CAUSES
from schemas.config import CheckConfig
from schemas.errors import TapstateError

PAGE = """# Runbook

Every error, every finding of the doctor, every check of a version: what you see, what it means, what mends it. A message begins with the
name of its error, says what is wrong and where, and names the command that mends it: on the command line, in the log of a night, in the
console. `tapstate doctor` names a finding by its check, a version that was not promoted names the figure. What nights do when they are
killed, and maintenance, is in [operations.md](operations.md). Written by `python -m flows.reference` from the code.

## Exit codes

| code | means | error |
|---|---|---|
{codes}

## Errors

{errors}

## Findings of `tapstate doctor`

`ok` needs nothing; `warn`: somebody should look; `fail`: nights or answers are wrong, and the exit code is 5.

{findings}

## Checks of a version

A version whose figure crosses a line is kept and not promoted (`CheckError`). The lines are settings of `[checks]` in `config.toml`;
`tapstate report N` shows the figures of a version beside its parent's, whether they passed or not.

| figure | what it is | line (default) | when it is crossed |
|---|---|---|---|
{checks}
"""


def page() -> str:
    """The page.

    Raises:
        ValueError: an error, a finding or a check without an entry; names it.
    """
    kinds = list(_kinds(TapstateError))
    return PAGE.format(
        codes="\n".join(
            f"| {code} | {means} | {', '.join(f'`{kind.__name__}`' for kind in kinds if kind.exit_code == code)} |"
            for code, means in EXIT_CODES.items()
        ),
        errors="\n\n".join(_entry(kind.__name__, kind.__doc__) for kind in kinds),
        findings="\n\n".join(_entry(check.__name__, check.__doc__) for check in CHECKS),
        checks="\n".join(_checks()),
    )


def _kinds(kind: type[TapstateError]) -> Iterator[type[TapstateError]]:
    for child in kind.__subclasses__():
        if child.__module__ == kind.__module__:
            yield child
            yield from _kinds(child)


def _entry(name: str, text: str | None) -> str:
    """One entry from a docstring."""
    paragraphs = [" ".join(part.split()) for part in inspect.cleandoc(text or "").replace("``", "`").split("\n\n")]
    told = {word: part.removeprefix(f"{word}:").strip() for part in paragraphs for word in ("See", "Mend") if part.startswith(f"{word}:")}
    if len(paragraphs) != 3 or not all(told.get(word) for word in ("See", "Mend")):
        raise ValueError(f"{name} has no entry: what it means, See: and Mend: as three paragraphs of its docstring")
    return f"### `{name}`\n\n{paragraphs[0]}\n\n- **You see:** {told['See']}\n- **Mend:** {told['Mend']}"


def _checks() -> Iterator[str]:
    fields = {name.removeprefix("min_").removeprefix("max_"): (name, field) for name, field in CheckConfig.model_fields.items()}
    # How many users it takes to judge is no line.
    del fields["users"]
    if set(fields) != set(CAUSES):
        raise ValueError(f"without an entry, or without a line: {', '.join(sorted(set(fields) ^ set(CAUSES)))}")
    for figure, (name, field) in fields.items():
        yield f"| `{figure}` | {field.description} | `{name}` ({field.default}) | {CAUSES[figure]} |"
