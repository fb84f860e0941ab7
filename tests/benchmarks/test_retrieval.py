"""Items chosen for a prompt are the same in every process."""

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import random
from benchmarks.retrieval import bm25
rng, words = random.Random(0), [f"w{i}" for i in range(12)]
for _ in range(50):
    items = [" ".join(rng.sample(words, 4)) for _ in range(40)]
    print(bm25(items, " ".join(rng.sample(words, 8))).tolist())
"""


def test_ties_do_not_depend_on_the_hashes_of_words() -> None:
    root = str(Path(__file__).parents[2])
    chosen = [
        subprocess.run(
            [sys.executable, "-c", CODE], cwd=root, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert chosen[0] == chosen[1] != ""
