"""What a test example comes to: loss and answer, whatever the LLM's tokenizer does to spaces."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from authors import articles

from benchmarks.arms import judge, with_texts
from encoders.llm import FrozenLLM
from encoders.prompts import render
from encoders.text import default_model
from encoders.tuning import warm_seq2seq
from schemas.config import LLMConfig


def test_an_answer_is_right_however_its_tokenizer_spaces_it(tmp_path: Path, tiny_encoder: Path) -> None:
    """Word pieces give "3.5" back as "3. 5", which is no number and no label."""
    bench = articles(tmp_path, tiny_encoder, lambda *_: "a b c")
    rows = bench.rows(0, "known")[:8]
    torch.manual_seed(0)
    llm = FrozenLLM(*warm_seq2seq(default_model(), 1, 1), LLMConfig())
    nothing = lambda batch: torch.zeros(len(batch), 0, llm.dim)  # noqa: E731
    prompts = [bench.examples.prompts[i] for i in rows]
    llm.model.requires_grad_(True)
    optimizer = torch.optim.Adam(llm.model.parameters(), 1e-3)
    for _ in range(100):
        loss, right = llm.loss(nothing(rows), prompts, ["3.5"] * len(rows))
        if right.all():
            break
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    llm.model.requires_grad_(False)
    assert llm.generate(nothing(rows), prompts) == llm.written(["3.5"]) * len(rows) == ["3. 5"] * len(rows)
    asked = replace(bench.examples, targets=np.where(np.arange(len(bench.examples)) == rows[0], "4", "3.5").tolist())
    rated = judge(replace(bench, examples=asked, labels=[], task=replace(bench.task, kind="rating")), llm, rows, nothing)
    assert rated.columns["mae"].tolist() == pytest.approx([0.5] + [0] * 7)
    labelled = judge(replace(bench, examples=asked, labels=["3.5", "4"]), llm, rows, nothing)
    assert labelled.columns["accuracy"].tolist() == [0, *[1] * 7]


def test_rows_are_fitted_through_the_prompts_that_are_asked(tmp_path: Path, tiny_encoder: Path) -> None:
    """Long texts are cut in prompts: rows fitted through whole ones would be fitted to other questions."""
    bench = articles(tmp_path, tiny_encoder, lambda user, day: f"{day} {user} " + "a b c " * 50)
    examples = bench.examples
    batch = with_texts(bench, examples.events(bench.event, np.zeros(len(bench.event), np.int64)), bench.event)
    assert batch.texts is not None
    assert [render(LLMConfig().prompt, text) for text in batch.texts] == examples.prompts
    assert batch.targets == examples.targets


def test_answers_are_written_out_for_examples_of_any_user(tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are in the order of users: the first ones are of one user."""
    monkeypatch.setattr("benchmarks.arms.WRITTEN", 20)
    bench = articles(tmp_path, tiny_encoder, lambda *_: "a b c")
    rows = bench.rows(0, "known")
    torch.manual_seed(0)
    llm = FrozenLLM(*warm_seq2seq(default_model(), 1, 1), LLMConfig(max_target_tokens=2))
    asked = replace(bench, task=replace(bench.task, kind="text"))
    once, twice = (judge(asked, llm, rows, lambda batch: torch.zeros(len(batch), 0, llm.dim)) for _ in range(2))
    written = ~np.isnan(once.columns["rouge1"])
    assert written.sum() == 20
    assert len(set(once.user[written])) == len(set(once.user)) > 1
    np.testing.assert_array_equal(once.columns["rougeL"], twice.columns["rougeL"])
    assert not np.isnan(once.columns["nll"]).any()
