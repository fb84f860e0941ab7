"""TAP-PER's bridge: a LoRA on the attention of the frozen LLM, shared by all users and learned with the head.

``W + (α/r)·B·A`` with α = 2·r and dropout .05, on the projections of queries, keys, values and outputs, as in the paper's code (r = 4).
It is a part of the head, in its checkpoint and, in peft's own files, in its bundles: whoever serves the LLM loads it there once.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save
from torch import nn

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from encoders.llm import FrozenLLM

ALPHA, DROPOUT = 2, 0.05
#: The adapter's name while it is on an LLM, and the files that ``peft.PeftModel.from_pretrained`` reads.
NAME = "bridge"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
#: peft's names of weights and of kinds of LLM.
BEFORE, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
CAUSAL, SEQ2SEQ = "CAUSAL_LM", "SEQ_2_SEQ_LM"


class Bridge(nn.Module):
    """A and B of each adapted layer.

    Args:
        rank: r.
        layers: inputs and outputs of each layer, by its name in the LLM.
        causal: what kind of LLM it is for.
        transposed: whether its layers keep their weights as GPT-2 does, inputs first.
    """

    def __init__(self, rank: int, layers: Mapping[str, tuple[int, int]], causal: bool, transposed: bool) -> None:
        super().__init__()
        self.rank, self.causal, self.transposed = rank, causal, transposed
        # Sorted: a checkpoint's configuration keeps no other order, and weights go by it.
        self.layers = {name: (int(inputs), int(outputs)) for name, (inputs, outputs) in sorted(layers.items())}
        self.down = nn.ParameterList([nn.Parameter(torch.empty(rank, size)) for size, _ in self.layers.values()])
        self.up = nn.ParameterList([nn.Parameter(torch.zeros(size, rank)) for _, size in self.layers.values()])
        for down in self.down:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        # Of the LLM that it is on; not parts of this module.
        self._dropouts: list[nn.Module] = []

    def train(self, mode: bool = True) -> "Bridge":
        """As ``nn.Module.train``, and the dropout on the LLM with it."""
        for dropout in self._dropouts:
            dropout.train(mode)
        return super().train(mode)

    @classmethod
    def for_llm(cls, llm: "FrozenLLM", rank: int) -> "Bridge":
        """An untrained bridge, which changes nothing; weights from torch's generator.

        Raises:
            ConfigError: the LLM carries an adapter of its own, and a second one would have to be loaded in the very same place.
        """
        if getattr(llm.model, "peft_config", None):
            raise ConfigError(
                "the LLM carries an adapter, and a bridge cannot be put on top of it",
                where=llm.config.model,
                mend="merge it into the weights (merge_and_unload of peft, then save_pretrained), or tapper.bridge = 0",
            )
        layers = attention_layers(llm.model)
        transposed = not all(isinstance(llm.model.get_submodule(name), nn.Linear) for name in layers)
        return cls(rank, layers, llm.kind == "causal", transposed)

    def configuration(self) -> dict[str, Any]:
        """What rebuilds the module, beside its weights."""
        return {"rank": self.rank, "layers": self.layers, "causal": self.causal, "transposed": self.transposed}

    @contextmanager
    def over(self, llm: "FrozenLLM") -> Iterator[None]:
        """The LLM with the bridge, for a while; its own weights stay as they are."""
        self.put(llm)
        try:
            yield
        finally:
            self._dropouts = []
            del llm.model.peft_config
            for name in self.layers:
                parent, _, child = name.rpartition(".")
                setattr(llm.model.get_submodule(parent), child, llm.model.get_submodule(name).get_base_layer())

    def put(self, llm: "FrozenLLM") -> None:
        """Put the bridge on the LLM for good: the layers there compute with this module's parameters, which may be trained."""
        from peft import inject_adapter_in_model

        self.to(llm.device)
        inject_adapter_in_model(self._lora(), llm.model, NAME)
        for name, down, up in zip(self.layers, self.down, self.up, strict=True):
            layer: Any = llm.model.get_submodule(name)
            layer.lora_A[NAME].weight, layer.lora_B[NAME].weight = down, up
            self._dropouts.append(layer.lora_dropout.train(self.training))

    @classmethod
    def read(cls, directory: Path) -> "Bridge":
        """What ``files`` wrote into ``directory``."""
        weights, about = load_file(directory / WEIGHTS), json.loads((directory / CONFIG).read_text())
        names = [name for name in weights if name.endswith(DOWN)]
        layers = {n.removeprefix(BEFORE).removesuffix(DOWN): (weights[n].shape[1], weights[n.replace(DOWN, UP)].shape[0]) for n in names}
        made = cls(about["r"], layers, about["task_type"] == CAUSAL, about["fan_in_fan_out"])
        with torch.no_grad():
            for name, down, up in zip(made.layers, made.down, made.up, strict=True):
                down.copy_(weights[BEFORE + name + DOWN])
                up.copy_(weights[BEFORE + name + UP])
        return made.eval().requires_grad_(False)

    def files(self) -> dict[str, bytes]:
        """The bridge as ``peft.PeftModel.from_pretrained`` reads it from a directory."""
        weights = {}
        for name, down, up in zip(self.layers, self.down, self.up, strict=True):
            weights[BEFORE + name + DOWN], weights[BEFORE + name + UP] = (x.detach().cpu().contiguous() for x in (down, up))
        kept = {key: sorted(value) if isinstance(value, set) else value for key, value in self._lora().to_dict().items()}
        return {CONFIG: json.dumps(kept, indent=1, sort_keys=True).encode(), WEIGHTS: save(weights, {"format": "pt"})}

    def _lora(self) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            task_type=CAUSAL if self.causal else SEQ2SEQ,
            r=self.rank,
            lora_alpha=ALPHA * self.rank,
            lora_dropout=DROPOUT,
            target_modules=list(self.layers),
            fan_in_fan_out=self.transposed,
            inference_mode=False,
        )


def attention_layers(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of every projection in the attention of ``model``, by name."""
    from transformers.pytorch_utils import Conv1D

    found = {}
    for name, module in model.named_modules():
        if "att" in name.lower() and isinstance(module, nn.Linear | Conv1D):
            rows, columns = module.weight.shape
            # Conv1D, which GPT-2 has, keeps its weight the other way round.
            found[name] = (rows, columns) if isinstance(module, Conv1D) else (columns, rows)
    return found
