"""Tuning makes an LLM that uses what its prompt tells it, behind the neutral prefix it was tuned with."""

from pathlib import Path

import numpy as np
import pytest
import torch

from encoders.llm import FrozenLLM
from encoders.tuning import HELD_OUT, Lessons, _length, _split, small_causal, tune, warm_seq2seq
from schemas.config import LLMConfig
from schemas.errors import ConfigError

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


def test_titles_are_held_out_whole_and_labels_are_not() -> None:
    rng = np.random.default_rng(0)
    titles = np.array([f"title {i}" for i in rng.integers(0, 2000, 6000)])
    held, training = _split(titles.tolist(), np.random.default_rng(1))
    assert len(held) == HELD_OUT
    assert not set(titles[held]) & set(titles[training])
    # Of the others none but those of held-out titles is left out.
    assert set(training) == set(np.flatnonzero(~np.isin(titles, titles[held])))
    labels = np.array(WORDS)[rng.integers(0, len(WORDS), 6000)]
    held, training = _split(["a", "b", "c", "d"], np.random.default_rng(1))
    assert (len(held), len(training)) == (1, 3), "without a look at any, the weights before tuning would be kept"
    held, training = _split(labels.tolist(), np.random.default_rng(1))
    # Labels' LLMs are known by this order.
    for found, drawn in zip((held, training), np.split(np.random.default_rng(1).permutation(6000), [HELD_OUT]), strict=True):
        assert np.array_equal(found, drawn)
    # Labels of one task among the titles of another.
    mixed = np.concatenate([titles, labels])
    for seed in range(20):
        held, training = _split(mixed.tolist(), np.random.default_rng(seed))
        assert set(WORDS) <= set(mixed[training])
        assert not set(mixed[held]) & set(mixed[training]) - set(WORDS)


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


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_any_number_of_steps_will_do(lessons: Lessons, steps: int) -> None:
    """A warm-up of one step divided by zero."""
    seen = []
    base = lambda: small_causal([*lessons.prompts, *lessons.targets])  # noqa: E731
    progress = lambda done, figures: seen.append((done, figures["loss"]))  # noqa: E731
    tune(base, lessons, LLMConfig(), prefix_length=PREFIX, steps=steps, learning_rate=3e-3, progress=progress)
    assert [done for done, _ in seen] == [1] * steps
    assert np.isfinite([loss for _, loss in seen]).all()


def test_the_same_seed_gives_the_same_llm(lessons: Lessons) -> None:
    before = torch.get_rng_state()
    first, second = tuned(lessons, 3), tuned(lessons, 3)
    assert first.fingerprint == second.fingerprint
    assert torch.equal(before, torch.get_rng_state())


def test_an_encoder_becomes_a_seq2seq_llm_and_keeps_its_embeddings(lessons: Lessons, tiny_encoder_dir: Path, tmp_path: Path) -> None:
    base = lambda: warm_seq2seq(str(tiny_encoder_dir), 1, 1)  # noqa: E731
    options = {"prefix_length": PREFIX, "steps": 9, "learning_rate": 1e-2, "batch_size": 8}
    llm = tune(base, lessons, LLMConfig(), embeddings=False, shorter=True, **options)  # type: ignore[arg-type]
    began, _ = base()
    assert llm.kind == "seq2seq"
    assert torch.equal(llm.embedding.weight, began.get_input_embeddings().weight)
    moved = dict(began.encoder.named_parameters())["encoder.layer.0.attention.self.query.weight"]
    assert not torch.equal(moved, llm.model.encoder.encoder.layer[0].attention.self.query.weight)
    llm.save(tmp_path)
    loaded = FrozenLLM.load(LLMConfig(model=str(tmp_path)))
    assert loaded.fingerprint == llm.fingerprint
    short, frozen = loaded.neutral_prefix(1)
    assert frozen
    assert torch.equal(short, loaded.neutral_prefix(PREFIX)[0][:1])
    with pytest.raises(ConfigError, match="2 vectors, not 3"):
        loaded.neutral_prefix(3)


def test_a_warm_cross_attention_is_the_self_attention_beside_it(tiny_encoder_dir: Path) -> None:
    made = [warm_seq2seq(str(tiny_encoder_dir), 1, 1, warm_cross_attention=warm)[0] for warm in (True, False)]
    layers = [model.decoder.bert.encoder.layer[0] for model in made]
    same = [torch.equal(layer.crossattention.self.query.weight, layer.attention.self.query.weight) for layer in layers]
    assert same == [True, False]


def test_tuned_in_bfloat16_it_is_kept_so(lessons: Lessons, tiny_encoder_dir: Path, tmp_path: Path) -> None:
    base = lambda: warm_seq2seq(str(tiny_encoder_dir), 1, 1)  # noqa: E731
    heard: list[float] = []
    options = {"prefix_length": PREFIX, "steps": 40, "learning_rate": 1e-2, "batch_size": 8}
    config = LLMConfig(precision="bfloat16")
    llm = tune(base, lessons, config, progress=lambda _, figures: heard.append(figures["loss"]), **options)  # type: ignore[arg-type]
    assert np.mean(heard[-5:]) < np.mean(heard[:5]) - 1
    llm.save(tmp_path)
    loaded = FrozenLLM.load(config.model_copy(update={"model": str(tmp_path)}))
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.fingerprint == llm.fingerprint


def test_shorter_prefixes_are_met_in_an_eighth_of_the_batches() -> None:
    met = [_length(step, 8, True) for step in range(1, 65)]
    assert met[1::2] == [0] * 32
    assert sorted(met[6::8]) == list(range(1, 9))
    assert [length for i, length in enumerate(met[::2]) if i % 4 != 3] == [8] * 24
    assert {_length(step, 8, False) for step in range(1, 65)} == {0, 8}
