"""The examples of docs/examples run, and do what docs/handover.md says."""

import base64
import copy
import importlib.util
import io
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "docs/examples"
PROMPT = "what to cook"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "<s>", "</s>", "[UNK]", *PROMPT.split(), *(f"w{i}" for i in range(40))]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture(scope="module")
def causal() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=47, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    return LlamaForCausalLM(shape).eval()


def prefix(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((4, 32)).astype(np.float32)


def test_causal(causal: Any, tokenizer: Any) -> None:
    """A prefix of the embeddings of words is those words; another prefix, another answer."""
    answer = example("transformers_causal").answer
    words = tokenizer("w1 w2 w3 w4", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[1, *words, *tokenizer(PROMPT, add_special_tokens=False)["input_ids"]]])
    plain = causal.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)[0, ids.shape[1] :]
    named = causal.get_input_embeddings()(torch.tensor(words)).detach().numpy()
    assert answer(causal, tokenizer, named, PROMPT) == tokenizer.decode(plain, skip_special_tokens=True)
    assert len({answer(causal, tokenizer, prefix(seed), PROMPT) for seed in range(4)}) > 1


def test_seq2seq(tokenizer: Any) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    shape = T5Config(
        vocab_size=47, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0, pad_token_id=0, eos_token_id=2
    )
    model = T5ForConditionalGeneration(shape).eval()
    torch.nn.init.normal_(model.shared.weight, std=1.0)
    answer = example("transformers_seq2seq").answer
    words = tokenizer("w1 w2 w3 w4", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*words, *tokenizer(PROMPT)["input_ids"]]])
    plain = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)[0]
    named = model.get_input_embeddings()(torch.tensor(words)).detach().numpy()
    assert answer(model, tokenizer, named, PROMPT) == tokenizer.decode(plain, skip_special_tokens=True)


def test_static_prefix_is_cached(causal: Any, tokenizer: Any) -> None:
    """Logits from the cache are those of the full pass, and the cache serves any number of queries."""
    # In float64: how float32 rounds depends on the machine and on how long the pass is.
    causal, module = copy.deepcopy(causal).double(), example("static_prefix_cache")
    cache = module.remember(causal, tokenizer, prefix(1))
    embed = causal.get_input_embeddings()
    for prompt in (PROMPT, "w5 w6 w7", PROMPT):
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        full = torch.cat([embed(torch.tensor([[1]])), torch.from_numpy(prefix(1))[None], embed(ids)], 1)
        with torch.no_grad():
            wanted = causal(inputs_embeds=full).logits[0, -ids.shape[1] :]
        torch.testing.assert_close(module.logits(causal, tokenizer, cache, prompt), wanted, rtol=0, atol=1e-9)
        assert cache.get_seq_length() == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vllm(causal: Any, tokenizer: Any, tmp_path: Path, dtype: torch.dtype) -> None:
    """One tensor [tokens, hidden_size]; the body's tensor loads with weights_only, as vLLM loads it, and gives the same logits."""
    from safetensors.numpy import load_file

    module = example("vllm_prompt_embeds")
    table = causal.get_input_embeddings().weight.to(dtype)
    ids = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    embeds = module.prompt_embeds(prefix(2), table, ids, tokenizer.bos_token_id)
    assert (embeds.shape, embeds.dtype, embeds.is_contiguous()) == ((1 + 4 + len(ids), 32), dtype, True)
    assert module.offline(embeds)["prompt_embeds"] is embeds
    body = module.completions_body("some/model", embeds)
    assert set(body) == {"model", "prompt_embeds", "max_tokens", "temperature"}
    loaded = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
    assert torch.equal(loaded, embeds)
    torch.testing.assert_close(loaded[1:5], torch.from_numpy(prefix(2)).to(dtype))
    module.store(prefix(2), tmp_path / "prefix.safetensors")
    np.testing.assert_array_equal(load_file(tmp_path / "prefix.safetensors")["prefix"], prefix(2))
    with pytest.raises(ValueError, match="hidden size 32"):
        module.prompt_embeds(prefix(2)[:, :8], table, ids, None)
