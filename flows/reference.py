"""The references in ``docs/``: of the commands, by Typer, of ``config.toml``, from its schema, and of what goes wrong, from the code.

``python -m flows.reference`` writes them anew.
"""

import subprocess
import sys
from pathlib import Path

from flows import runbook
from schemas.config import Config, render

DOCS = Path(__file__).parent.parent / "docs"
CONFIGURATION = """# Configuration

`config.toml` of a home, as `tapstate init` writes it: every setting with its default and what it means. A setting that is not there has its
default; one that is unknown, or out of its range, is refused by name (exit code 2). Written by `python -m flows.reference`.

```toml
{toml}```
"""


def pages() -> dict[str, str]:
    """What the pages should hold, by file name."""
    command = [sys.executable, "-m", "typer", "flows.cli", "utils", "docs", "--name", "tapstate", "--title", "Commands"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=DOCS.parent)
    configuration = CONFIGURATION.format(toml=render(Config()))
    return {"cli.md": told.stdout.strip() + "\n", "configuration.md": configuration, "runbook.md": runbook.page()}


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text)
