"""Tuning makes an LLM that uses what its prompt tells it, behind the neutral prefix it was tuned with."""

import numpy as np
import pytest
import torch

from encoders.llm import FrozenLLM
from encoders.tuning import Lessons, small_causal, tune
from schemas.config import LLMConfig

WORDS = ["ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine", "rowan", "willow"]
PREFIX = 2


@pytest.fixture(scope="module")
def lessons() -> Lessons:
    rng = np.random.default_rng(0)
    targets = [WORDS[i] for i in rng.integers(0, len(WORDS), 600)]
    told = np.arange(600) % 2 == 0
    prompts = [f"a tree => {target}; a tree =>" if tell else "a tree =>" for target, tell in zip(targets, told, strict=True)]
    return Lessons(prompts, targets, told)


def tuned(lessons: Lessons, steps: int) -> FrozenLLM:
    base = lambda: small_causal([*lessons.prompts, *lessons.targets])  # noqa: E731
    return tune(base, lessons, LLMConfig(), prefix_length=PREFIX, steps=steps, learning_rate=3e-3, seed=3)


@pytest.mark.slow
def test_a_told_answer_is_given(lessons: Lessons) -> None:
    llm = tuned(lessons, 300)
    rms = llm.embedding_rms(lessons.prompts)
    neutral, frozen = llm.neutral_prefix(PREFIX)
    assert frozen
    torch.testing.assert_close(neutral.square().mean(), torch.ones(()), rtol=1e-4, atol=0)
    prompts = [f"a tree => {word}; a tree =>" for word in WORDS]
    with torch.no_grad():
        _, right = llm.loss((rms * neutral).expand(len(WORDS), -1, -1), prompts, WORDS)
        plain, _ = llm.loss((rms * neutral).expand(len(WORDS), -1, -1), ["a tree =>"] * len(WORDS), WORDS)
    assert right.float().mean() > 0.8
    # Untold, it spreads its bets over the twelve.
    assert abs(float(plain.mean()) - np.log(len(WORDS)) / 2) < 1.5
    assert not any(p.requires_grad for p in llm.model.parameters())


def test_the_same_seed_gives_the_same_llm(lessons: Lessons) -> None:
    before = torch.get_rng_state()
    first, second = tuned(lessons, 3), tuned(lessons, 3)
    assert first.fingerprint == second.fingerprint
    assert torch.equal(before, torch.get_rng_state())
