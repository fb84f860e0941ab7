"""The tutorials, block by block, as they stand: the data engineer's first, the others on what it leaves."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"


def follow(page: str, reader: Path, directory: Path) -> str:
    """Run the page's blocks in one shell, with ``reader`` as home directory; what they said.

    What is installed is what the tests run in: make only shows what it would do where nothing is installed, and fails where there is
    no such target.
    """
    blocks = re.findall(r"```sh\n(.*?)```", (TUTORIALS / page).read_text(), re.DOTALL)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TAPSTATE")}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{environment['PATH']}", "HOME": str(reader), "MAKEFLAGS": "nB"}
    script = "set -e\n" + "\n".join(blocks)
    done = subprocess.run(["bash", "-c", script], cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, f"{page}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


@pytest.mark.slow
def test_each_can_be_followed_word_for_word(tmp_path: Path) -> None:
    made = tmp_path / "tapstate-tutorial"
    said = follow("data-engineer.md", tmp_path, ROOT)
    assert "pip install" in said
    assert "-c constraints.txt" in said
    assert "Traceback" not in said
    assert (made / "night.html").stat().st_size > 10_000
    said = follow("analyst.md", tmp_path, tmp_path)
    assert "what those like person1 chose" in said
    assert (made / "busy.parquet").is_file()
    assert (made / "compared.html").is_file()
    if not shutil.which("curl"):
        pytest.skip("no curl: the serving team's page was not followed")
    said = follow("serving.md", tmp_path, tmp_path)
    assert "['known', 'unknown'] (2, 8, " in said
    assert "without a token: 401" in said
    told = re.findall(r"^(person\d|nobody) +is told '(.*)', and chose lately", said, re.MULTILINE)
    assert len(told) == 6
    assert len({answer for _, answer in told}) > 1, "everybody is told the same"
