"""The frozen LLM: our loss and answers are transformers' own, with a prefix in the right place."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import ByT5Tokenizer, T5Config, T5ForConditionalGeneration

from encoders.llm import FrozenLLM, initial_prefix
from encoders.text import default_model
from encoders.tuning import warm_seq2seq
from schemas.config import LLMConfig
from schemas.errors import ConfigError

PROMPTS = ["fix race in the scheduler", "bread", "a slow film with a fine ending in the old town", ""]
TARGETS = ["politics", "food and music", "four stars", "a"]


def ids(llm: FrozenLLM, text: str) -> list[int]:
    return list(llm.tokenizer(text, add_special_tokens=False)["input_ids"])


def reference(llm: FrozenLLM, prompt: str, target: str, before: list[int]) -> tuple[float, bool]:
    """transformers' loss on token ids, ``before`` standing where the prefix goes; and whether its greedy choices are the target."""
    answer = [*ids(llm, target), llm.end]
    if llm.kind == "seq2seq":
        inputs, labels = [*before, *ids(llm, prompt), llm.end], answer
    else:
        begin = [] if llm.begin is None else [llm.begin]
        head = [*begin, *before, *ids(llm, prompt)]
        inputs, labels = [*head, *answer], [*[-100] * len(head), *answer]
    with torch.no_grad():
        out = llm.model(input_ids=torch.tensor([inputs], device=llm.device), labels=torch.tensor([labels], device=llm.device))
    greedy = out.logits[0].argmax(-1).tolist()
    chosen = greedy if llm.kind == "seq2seq" else greedy[len(inputs) - len(answer) - 1 : -1]
    return float(out.loss), chosen == answer


def nothing(llm: FrozenLLM, count: int) -> Tensor:
    return torch.zeros(count, 0, llm.dim)


def prefix_of(llm: FrozenLLM, tokens: list[int], count: int) -> Tensor:
    return llm.embedding(torch.tensor(tokens, device=llm.device)).detach().expand(count, -1, -1)


def losses(llm: FrozenLLM, prefix: Tensor, prompts: list[str] = PROMPTS, targets: list[str] = TARGETS) -> list[float]:
    return llm.loss(prefix, prompts, targets)[0].tolist()


def test_loss_without_prefix_is_transformers_own(llm: FrozenLLM) -> None:
    wanted = [reference(llm, p, t, [])[0] for p, t in zip(PROMPTS, TARGETS, strict=True)]
    assert losses(llm, nothing(llm, 4)) == pytest.approx(wanted, abs=1e-5, rel=1e-5)
    assert max(wanted) - min(wanted) > 0.01


def test_a_prefix_stands_where_the_contract_says(llm: FrozenLLM) -> None:
    """A prefix made of tokens' embeddings is those tokens: ``[P; text]``, causal ``[BOS; P; text]``."""
    tokens = ids(llm, "sport news")[:3]
    wanted = [reference(llm, p, t, tokens)[0] for p, t in zip(PROMPTS, TARGETS, strict=True)]
    found = losses(llm, prefix_of(llm, tokens, 4))
    assert found == pytest.approx(wanted, abs=1e-5, rel=1e-5)
    assert max(abs(a - b) for a, b in zip(found, losses(llm, nothing(llm, 4)), strict=True)) > 1e-3


def test_each_example_has_its_own_prefix(llm: FrozenLLM) -> None:
    prefix = torch.randn(4, 2, llm.dim)
    changed = prefix.clone()
    changed[1] = torch.randn(2, llm.dim)
    before, after = losses(llm, prefix), losses(llm, changed)
    assert abs(after[1] - before[1]) > 1e-3
    assert [after[i] for i in (0, 2, 3)] == pytest.approx([before[i] for i in (0, 2, 3)], abs=1e-6)


def test_padding_of_others_is_not_seen(llm: FrozenLLM) -> None:
    prefix = torch.randn(4, 3, llm.dim)
    long = [*PROMPTS[:3], "word and more " * 8]
    together = losses(llm, prefix, long, [*TARGETS[:3], "music and food " * 2])
    for i in range(3):
        assert losses(llm, prefix[i : i + 1], [PROMPTS[i]], [TARGETS[i]]) == pytest.approx([together[i]], abs=1e-5)


def test_long_prompts_keep_their_end_and_long_targets_their_start(llm: FrozenLLM) -> None:
    words = " the old town" * 100
    prompt = llm.tokenizer.decode(ids(llm, words)[-llm.config.max_prompt_tokens :])
    kept = ids(llm, prompt)
    assert len(kept) == llm.config.max_prompt_tokens
    with_start = losses(llm, nothing(llm, 1), ["music" + words], ["a"])
    assert with_start == pytest.approx(losses(llm, nothing(llm, 1), [prompt], ["a"]), abs=1e-5)
    assert losses(llm, nothing(llm, 1), [words + " music"], ["a"]) != pytest.approx(with_start, abs=1e-5)
    long, longer = ("food" + words, "food" + words + " music")
    assert losses(llm, nothing(llm, 1), ["x"], [long]) == losses(llm, nothing(llm, 1), ["x"], [longer])


def test_gradients_reach_the_prefix_and_no_parameter(llm: FrozenLLM) -> None:
    prefix = torch.randn(4, 2, llm.dim, requires_grad=True)
    llm.loss(prefix, PROMPTS, TARGETS)[0].sum().backward()
    assert torch.isfinite(prefix.grad).all()
    assert (prefix.grad.abs().amax((1, 2)) > 0).all()
    assert not llm.model.training
    for name, weight in llm.model.named_parameters():
        assert not weight.requires_grad, name
        assert weight.grad is None, name


def test_generate_without_prefix_is_transformers_own(llm: FrozenLLM) -> None:
    """Prompts of different lengths in one batch, against one after the other on token ids."""
    found, wanted = llm.generate(nothing(llm, 3), PROMPTS[:3]), []
    for prompt in PROMPTS[:3]:
        end = [llm.end] if llm.kind == "seq2seq" else []
        start = [llm.begin] if llm.kind == "causal" and llm.begin is not None else []
        inputs = torch.tensor([[*start, *ids(llm, prompt), *end]], device=llm.device)
        options = {"do_sample": False, "num_beams": 1, "max_new_tokens": llm.config.max_target_tokens}
        out = llm.model.generate(inputs, attention_mask=torch.ones_like(inputs), pad_token_id=llm.pad, eos_token_id=llm.end, **options)
        new = out[0][inputs.shape[1] :] if llm.kind == "causal" else out[0]
        wanted.append(llm.tokenizer.decode(new, skip_special_tokens=True).strip())
    assert found == wanted
    assert any(found)


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_right_means_that_greedy_decoding_gives_the_target(tiny_llms: Callable[[str], FrozenLLM], name: str) -> None:
    """A copy taught two answers: it is right about them, in generation too, and wrong about others."""
    frozen = tiny_llms(name)
    llm = FrozenLLM(copy.deepcopy(frozen.model), frozen.tokenizer, frozen.config)
    prompts, answers = PROMPTS[:2], TARGETS[:2]
    llm.model.requires_grad_(True)
    optimizer = torch.optim.Adam(llm.model.parameters(), 1e-2)
    for _ in range(200):
        loss, right = llm.loss(nothing(llm, 2), prompts, answers)
        if right.all() and loss.max() < 0.02:
            break
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    llm.model.requires_grad_(False)
    assert llm.loss(nothing(llm, 2), prompts, answers)[1].tolist() == [True, True]
    assert llm.generate(nothing(llm, 2), prompts) == answers
    pairs = [(prompts[0], answers[0]), (prompts[0], answers[1]), (prompts[1], "food"), (prompts[1], "food and music and")]
    found = llm.loss(nothing(llm, 4), [p for p, _ in pairs], [t for _, t in pairs])[1].tolist()
    assert found == [reference(llm, p, t, [])[1] for p, t in pairs] == [True, False, False, False]


def test_saved_and_loaded_it_is_the_same(llm: FrozenLLM, tmp_path: Path) -> None:
    neutral = initial_prefix(llm.embedding.weight, 3)
    tuned = FrozenLLM(llm.model, llm.tokenizer, llm.config, neutral)
    tuned.save(tmp_path)
    loaded = FrozenLLM.load(LLMConfig(**{**llm.config.model_dump(), "model": str(tmp_path)}))
    assert loaded.fingerprint == tuned.fingerprint
    assert loaded.kind == llm.kind
    found, frozen = loaded.neutral_prefix(3)
    assert torch.equal(found.cpu(), neutral)
    assert frozen
    with pytest.raises(ConfigError, match="3 vectors, not 5"):
        loaded.neutral_prefix(5)
    assert losses(loaded, nothing(llm, 4)) == pytest.approx(losses(llm, nothing(llm, 4)), abs=1e-6)
    description = loaded.describe()
    assert (description["model"], description["hidden_size"]) == (str(tmp_path), llm.dim)


def test_use_changes_no_fingerprint(tmp_path: Path) -> None:
    """MiniLM's tokenizer comes with padding and truncation, and its first use here switches them off."""
    made = FrozenLLM(*warm_seq2seq(default_model(), 1, 1), LLMConfig())
    before = made.fingerprint
    made.target_embeddings(["a"])
    assert made.fingerprint == before
    made.save(tmp_path)
    assert FrozenLLM.load(LLMConfig(model=str(tmp_path))).fingerprint == before


def test_a_tokenizer_written_in_python_will_do(tmp_path: Path) -> None:
    """ByT5 has no other."""
    torch.manual_seed(0)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    tokenizer = ByT5Tokenizer()
    config = T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **shape)
    made = FrozenLLM(T5ForConditionalGeneration(config), tokenizer, LLMConfig())
    made.save(tmp_path)
    loaded = FrozenLLM.load(LLMConfig(model=str(tmp_path)))
    assert loaded.fingerprint == made.fingerprint
    assert FrozenLLM(made.model, ByT5Tokenizer(extra_ids=5), LLMConfig()).fingerprint != made.fingerprint
    prefix = torch.randn(4, 2, made.dim, device=made.device)
    assert torch.equal(loaded.loss(prefix, PROMPTS, TARGETS)[0], made.loss(prefix, PROMPTS, TARGETS)[0])
    assert loaded.generate(prefix, PROMPTS) == made.generate(prefix, PROMPTS)
    assert loaded.written(TARGETS) == TARGETS


def test_bfloat16_halves_the_weights_and_answers_alike(llm: FrozenLLM, tmp_path: Path) -> None:
    llm.save(tmp_path)
    half = FrozenLLM.load(LLMConfig(**{**llm.config.model_dump(), "model": str(tmp_path), "precision": "bfloat16"}))
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    assert half.fingerprint != llm.fingerprint
    assert half.describe()["precision"] == "bfloat16"
    prefix = torch.randn(4, 2, llm.dim, device=llm.device, requires_grad=True)
    found, _ = half.loss(prefix, PROMPTS, TARGETS)
    wanted, _ = llm.loss(prefix.detach(), PROMPTS, TARGETS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.detach(), wanted, rtol=0.05, atol=0.05)
    found.mean().backward()
    assert prefix.grad is not None
    assert prefix.grad.dtype == torch.float32
    assert prefix.grad.abs().max() > 0
    assert len(half.generate(prefix.detach(), PROMPTS)) == 4


def test_fingerprint_follows_weights_prompt_and_neutral_prefix(tiny_llms: Callable[[str], FrozenLLM]) -> None:
    llm = tiny_llms("llama")
    changed = copy.deepcopy(llm.model)
    next(changed.parameters()).view(-1)[5] += 1e-3
    neutral = initial_prefix(llm.embedding.weight, 2)
    prints = [
        llm.fingerprint,
        FrozenLLM(changed, llm.tokenizer, llm.config).fingerprint,
        FrozenLLM(llm.model, llm.tokenizer, LLMConfig(prompt="{text}?")).fingerprint,
        FrozenLLM(llm.model, llm.tokenizer, llm.config, neutral).fingerprint,
        FrozenLLM(llm.model, llm.tokenizer, llm.config, neutral + 1e-4).fingerprint,
    ]
    assert len(set(prints)) == 5
    assert FrozenLLM(copy.deepcopy(llm.model), llm.tokenizer, llm.config).fingerprint == prints[0]


def test_embedding_rms_is_over_token_occurrences(llm: FrozenLLM) -> None:
    texts = ["the the the the", "old town", ""]
    tokens = torch.tensor([i for text in texts for i in ids(llm, text)], device=llm.device)
    assert llm.embedding_rms(texts) == pytest.approx(float(llm.model.get_input_embeddings()(tokens).square().mean().sqrt()), rel=1e-5)
    assert llm.embedding_rms([]) > 0


def test_an_untuned_model_starts_from_a_prefix_to_be_trained(llm: FrozenLLM) -> None:
    neutral, frozen = llm.neutral_prefix(4)
    assert not frozen
    torch.testing.assert_close(neutral.square().mean(-1).sqrt().cpu(), torch.ones(4), rtol=1e-4, atol=0)
    assert (neutral[0] - neutral[1]).abs().max() > 1e-3


def test_an_unusable_llm_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no usable LLM"):
        FrozenLLM.load(LLMConfig(model=str(tmp_path / "missing")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no usable LLM"):
        FrozenLLM.load(LLMConfig(model=str(tmp_path / "empty")))


def test_an_llm_with_cut_weights_is_a_config_error(tmp_path: Path, tiny_llms: Callable[[str], FrozenLLM]) -> None:
    tiny_llms("llama").save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(ConfigError, match="no usable LLM"):
        FrozenLLM.load(LLMConfig(model=str(tmp_path)))


def test_an_encoder_is_no_llm(tiny_encoder_dir: Path) -> None:
    with pytest.raises(ConfigError, match="no usable LLM"):
        FrozenLLM.load(LLMConfig(model=str(tiny_encoder_dir)))
