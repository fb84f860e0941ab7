"""The bridge: a LoRA that peft reads, trained through the LLM, and gone without a trace."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel

from encoders.bridge import Bridge, attention_layers
from encoders.llm import FrozenLLM
from schemas.errors import ConfigError

PROMPTS, TARGETS = ["abc", "x y"], ["def", "z"]


def losses(llm: FrozenLLM) -> torch.Tensor:
    return llm.loss(torch.zeros(2, 0, llm.dim), PROMPTS, TARGETS)[0]


def drawn(llm: FrozenLLM, rank: int = 4) -> Bridge:
    """A bridge that changes something."""
    torch.manual_seed(0)
    bridge = Bridge.for_llm(llm, rank).eval()
    with torch.no_grad():
        for up in bridge.up:
            up.normal_(std=0.3)
    return bridge


def test_untrained_it_changes_nothing_and_training_it_changes_itself_alone(llm: FrozenLLM) -> None:
    before, names = losses(llm), set(llm.model.state_dict())
    weights = {name: p.clone() for name, p in llm.model.named_parameters()}
    bridge = Bridge.for_llm(llm, 4).eval()
    with bridge.over(llm):
        torch.testing.assert_close(losses(llm), before)
        optimizer = torch.optim.Adam(bridge.parameters(), 1e-2)
        for _ in range(10):
            loss = losses(llm).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert losses(llm).mean() < before.mean()
    assert torch.equal(losses(llm), before)
    assert set(llm.model.state_dict()) == names
    assert all(torch.equal(p, weights[name]) and p.grad is None for name, p in llm.model.named_parameters())


def test_peft_reads_what_it_writes_and_so_do_we(llm: FrozenLLM, tmp_path: Path) -> None:
    bridge = drawn(llm)
    with bridge.over(llm):
        wanted = losses(llm)
    assert not torch.allclose(wanted, losses(llm))
    for name, data in bridge.files().items():
        (tmp_path / name).write_bytes(data)
    with Bridge.read(tmp_path).over(llm):
        assert torch.equal(losses(llm), wanted)
    other = FrozenLLM(copy.deepcopy(llm.model), llm.tokenizer, llm.config)
    PeftModel.from_pretrained(other.model, str(tmp_path))
    torch.testing.assert_close(losses(other), wanted)


def test_dropout_follows_train_and_eval(llm: FrozenLLM) -> None:
    bridge = drawn(llm)
    with bridge.over(llm):
        settled = losses(llm)
        assert torch.equal(losses(llm), settled)
        bridge.train()
        assert not torch.equal(losses(llm), losses(llm))
        bridge.eval()
        assert torch.equal(losses(llm), settled)


@pytest.mark.parametrize(("name", "of_a_layer"), [("gpt2", 2), ("llama", 4), ("t5", 4)])
def test_attention_is_adapted_and_nothing_else(tiny_llms: Callable[[str], FrozenLLM], name: str, of_a_layer: int) -> None:
    llm = tiny_llms(name)
    layers = attention_layers(llm.model)
    assert layers
    assert len(layers) % of_a_layer == 0
    assert not [layer for layer in layers if "mlp" in layer or "DenseReluDense" in layer or "lm_head" in layer]
    for layer, (inputs, outputs) in layers.items():
        assert llm.model.get_submodule(layer)(torch.zeros(1, inputs)).shape == (1, outputs)


def test_an_llm_that_carries_an_adapter_gets_no_bridge(llm: FrozenLLM) -> None:
    other = FrozenLLM(copy.deepcopy(llm.model), llm.tokenizer, llm.config)
    other.model.add_adapter(LoraConfig(target_modules=list(attention_layers(other.model))[:1]))
    with pytest.raises(ConfigError, match="merge"):
        Bridge.for_llm(other, 4)
