"""The benchmark's LLM is made once and found again by what it was made of."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from authors import articles

from benchmarks.bench import Bench
from benchmarks.frozen import frozen_llm


@pytest.fixture
def bench(tmp_path: Path, tiny_encoder: Path) -> Bench:
    return articles(tmp_path, tiny_encoder, lambda user, _: f"news of {user}")


def test_an_llm_is_tuned_once(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    made = frozen_llm(bench, tmp_path / "cache", steps=10)
    assert "tune 10 loss" in capsys.readouterr().err
    assert torch.get_num_threads() == threads
    found = frozen_llm(bench, tmp_path / "cache", steps=10)
    assert not capsys.readouterr().err
    assert found.fingerprint == made.fingerprint
    assert np.array_equal(np.asarray(found.neutral), np.asarray(made.neutral))


def test_one_that_was_not_finished_is_tuned_again_and_comes_out_the_same(bench: Bench, tmp_path: Path) -> None:
    made = frozen_llm(bench, tmp_path / "cache", steps=2)
    (about,) = (tmp_path / "cache").glob("llm-*/about.json")
    about.unlink()
    assert frozen_llm(bench, tmp_path / "cache", steps=2).fingerprint == made.fingerprint
    assert about.is_file()


def test_other_lessons_steps_seeds_and_kinds_of_task_make_another(bench: Bench, tmp_path: Path) -> None:
    other = replace(bench, lessons=replace(bench.lessons, prompts=[*bench.lessons.prompts[:-1], "another"]))
    writing = replace(bench, task=replace(bench.task, kind="text"))
    made = [frozen_llm(*given, steps=1, seed=seed) for *given, seed in ((bench, tmp_path, 0), (bench, tmp_path, 1), (other, tmp_path, 0))]
    made += [frozen_llm(writing, tmp_path, steps=1), frozen_llm(bench, tmp_path, steps=2)]
    assert len({llm.fingerprint for llm in made}) == len(list(tmp_path.glob("llm-*"))) == 5
    # Who writes needs layers that copy, and words of its own.
    assert [llm.model.config.decoder.num_hidden_layers for llm in made] == [1, 1, 1, 3, 1]
