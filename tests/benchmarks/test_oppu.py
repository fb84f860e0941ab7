"""OPPU: a LoRA of each user's own, and the LLM as it was afterwards."""

from pathlib import Path

import numpy as np
import pytest
import torch
from authors import articles

from benchmarks import oppu
from benchmarks.arms import judge
from benchmarks.bench import Bench
from encoders.llm import FrozenLLM
from encoders.tuning import warm_seq2seq
from schemas.config import LLMConfig


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Bench:
    """Every author keeps to one category, which no headline tells."""
    return articles(tmp_path_factory.mktemp("data"), tiny_encoder, lambda *_: "a b c")


def test_each_user_gets_a_model_of_the_own_past(bench: Bench, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oppu, "USERS", 4)
    monkeypatch.setattr(oppu, "RATE", 3e-2)
    monkeypatch.setattr(oppu, "EPOCHS", 25)
    torch.manual_seed(0)
    llm = FrozenLLM(*warm_seq2seq(str(tiny_encoder), 1, 1), LLMConfig())
    before, rows = llm.fingerprint, bench.rows(0, "known")
    found, costs = oppu.personal(bench, llm, rows, 0)
    assert llm.fingerprint == before
    assert not any(p.requires_grad for p in llm.model.parameters())
    assert len(np.unique(found.user)) == 4
    assert set(found.event) == set(bench.event[rows[np.isin(bench.examples.user[rows], found.user)]])
    plain = judge(bench, llm, rows[np.isin(bench.examples.user[rows], found.user)], lambda b: torch.zeros(len(b), 0, llm.dim))
    by_event = dict(zip(plain.event.tolist(), plain.columns["nll"].tolist(), strict=True))
    gain = np.array([by_event[int(e)] for e in found.event]) - found.columns["nll"]
    assert all(gain[found.user == user].mean() > 0.2 for user in np.unique(found.user))
    assert costs["stored_bytes_per_user"] == 4 * costs["trained_params"] > 0
    again, _ = oppu.personal(bench, llm, rows, 0)
    np.testing.assert_allclose(again.columns["nll"], found.columns["nll"], rtol=1e-5)
