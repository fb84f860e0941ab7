"""The tutorials, block by block, as they stand: the data engineer's first, the others on what it leaves."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parent.parent / "docs" / "tutorials"


def follow(page: str, directory: Path) -> str:
    """Run the page's blocks in one shell; what they said."""
    blocks = re.findall(r"```sh\n(.*?)```", (TUTORIALS / page).read_text(), re.DOTALL)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TAPSTATE")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    script = "set -e\n" + "\n".join(blocks)
    done = subprocess.run(["bash", "-c", script], cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, f"{page}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


@pytest.mark.slow
def test_each_can_be_followed_word_for_word(tmp_path: Path) -> None:
    said = follow("data-engineer.md", tmp_path)
    assert "Traceback" not in said
    assert (tmp_path / "night.html").stat().st_size > 10_000
    said = follow("analyst.md", tmp_path)
    assert "what those like person1 chose" in said
    assert (tmp_path / "busy.parquet").is_file()
    assert (tmp_path / "compared.html").is_file()
    if not shutil.which("curl"):
        pytest.skip("no curl: the serving team's page was not followed")
    said = follow("serving.md", tmp_path)
    assert "['known', 'unknown'] (2, 8, " in said
    assert "without a token: 401" in said
