"""Making a frozen LLM: a small model tuned on the task, half of the time behind the neutral prefix (TAP-PER's stage 1).

A prefix that the LLM never met, even a neutral one, costs it; so ``P₀`` is trained with the LLM and both are then frozen.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    EncoderDecoderModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from encoders.llm import FrozenLLM, initial_prefix
from schemas.config import LLMConfig

#: Pairs held out to choose the moment of tuning that generalises, and the steps between looks at them.
HELD_OUT = 512
EVALUATE_EVERY = 50
#: Lessons of one answer, on the average, from which on answers are labels.
TITLES = 8
#: Share of the steps that take only lessons whose prompt tells the answer: copying is then learned within a hundred steps, from
#: every seed; among other prompts it comes at a random moment or, at high learning rates, never.
TOLD_FIRST = 0.25


@dataclass(frozen=True)
class Lessons:
    """What an LLM is tuned on: n prompts, n targets, and bool ``[n]``, whether the prompt tells the answer outright."""

    prompts: Sequence[str]
    targets: Sequence[str]
    told: npt.NDArray[np.bool_]


def small_causal(texts: Sequence[str], width: int = 96, layers: int = 2) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A small Llama with random weights and a byte-pair vocabulary learned from ``texts``."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=4096, special_tokens=special, show_progress=False))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )
    config = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 48,
        num_key_value_heads=width // 48,
        max_position_embeddings=512,
        bos_token_id=wrapped.bos_token_id,
        eos_token_id=wrapped.eos_token_id,
        pad_token_id=wrapped.pad_token_id,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config), wrapped


def warm_seq2seq(
    model: str, encoder_layers: int, decoder_layers: int, *, warm_cross_attention: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An encoder-decoder whose halves both start from the first layers of the BERT-type encoder ``model`` (directory or id).

    Only the cross-attention and the output layer's transform start at random.

    Args:
        warm_cross_attention: start the cross-attention from the self-attention beside it. Copying is then learned in a hundred steps even
            where answers are alike (digits); from random weights their loss stays where it is.
    """
    tokenizer = AutoTokenizer.from_pretrained(model)
    made: Any = EncoderDecoderModel.from_encoder_decoder_pretrained(
        model, model, encoder_num_hidden_layers=encoder_layers, decoder_num_hidden_layers=decoder_layers
    )
    if warm_cross_attention:
        for layer in made.decoder.bert.encoder.layer:
            layer.crossattention.load_state_dict(layer.attention.state_dict())
    made.config.decoder_start_token_id = made.generation_config.decoder_start_token_id = tokenizer.cls_token_id
    made.config.pad_token_id = made.generation_config.pad_token_id = tokenizer.pad_token_id
    return made, tokenizer


def tune(
    base: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    lessons: Lessons,
    config: LLMConfig,
    *,
    prefix_length: int,
    steps: int,
    learning_rate: float,
    batch_size: int = 32,
    seed: int = 0,
    embeddings: bool = True,
    shorter: bool = False,
    pool: int = 1,
    progress: Callable[[int, dict[str, Any]], None] | None = None,
) -> FrozenLLM:
    """A base model tuned to give ``targets`` for ``prompts``, frozen with the neutral prefix it was tuned with.

    Half of the batches come without a prefix, the others behind ``P₀``.

    Args:
        base: makes model and tokenizer (called under the seed).
        lessons: of users and times that the later test does not touch. Some are held out: the weights that do best on them are kept.
        embeddings: whether token embeddings are tuned along; a pretrained model's need not be, and they are most of a small one's weights.
        shorter: a quarter of the batches behind ``P₀`` see its first vectors only, so that shorter prefixes meet an LLM that knows them.
        pool: batches drawn together and cut by length: prompts of very unequal lengths are mostly padding otherwise.
        progress: called after each step with 1, its loss, and from the first look on the loss on what is held out.
    """
    prompts, targets = lessons.prompts, lessons.targets
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, tokenizer = base()
        llm = FrozenLLM(model, tokenizer, config)
        model.requires_grad_(True).train()
        if not embeddings:
            for module in model.modules():
                if isinstance(module, nn.Embedding) and module.num_embeddings == llm.embedding.num_embeddings:
                    module.requires_grad_(False)
        tuned = [p for p in model.parameters() if p.requires_grad]
        rms = llm.embedding_rms(prompts[:2000])
        neutral = nn.Parameter(initial_prefix(llm.embedding.weight, prefix_length).to(llm.device))
        optimizer = torch.optim.AdamW([*tuned, neutral], lr=learning_rate, weight_decay=0.01)
        # A rise of exactly one step, a tenth of ten, divides by zero.
        rise = max(0.1, min(0.9, 1.5 / steps))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=rise)
        rng = np.random.default_rng(seed)
        held, training = _split(targets, rng)
        told = training[lessons.told[training]]
        first = steps * TOLD_FIRST if len(told) else 0
        best, best_state = float("inf"), copy.deepcopy(model.state_dict())
        best_neutral = neutral.detach().clone()

        def loss_of(rows: npt.NDArray[np.int64], length: int) -> Tensor:
            prefix = (rms * neutral[:length]).expand(len(rows), -1, -1)
            with torch.autocast(llm.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                return llm.loss(prefix, [prompts[i] for i in rows], [targets[i] for i in rows])[0].mean()

        figures: dict[str, Any] = {}
        waiting: list[npt.NDArray[np.int64]] = []
        for step in range(1, steps + 1):
            if not waiting:
                drawn = rng.choice(told if step <= first else training, pool * batch_size)
                waiting = _by_length(drawn, prompts, pool, rng)
            loss = loss_of(waiting.pop(), _length(step, prefix_length, shorter))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_([*tuned, neutral], 1.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                neutral.div_(neutral.square().mean().sqrt())
            figures["loss"] = float(loss.detach())
            if len(held) and (step % EVALUATE_EVERY == 0 or step == steps):
                model.eval()
                with torch.no_grad():
                    found = float(np.mean([float(loss_of(part, prefix_length)) for part in np.array_split(held, -(-len(held) // 64))]))
                model.train()
                figures["held_out"] = found
                if found < best:
                    best, best_state, best_neutral = found, copy.deepcopy(model.state_dict()), neutral.detach().clone()
            if progress:
                progress(1, figures)
        model.load_state_dict(best_state)
        llm.neutral = best_neutral.cpu()
        llm.model = model.to(getattr(torch, config.precision)).eval().requires_grad_(False)
    return llm


def _split(targets: Sequence[str], rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The lessons held out, and those to train on.

    Answers that come less than ``TITLES`` times on the average are titles, and are held out whole; what is left of the last one's lessons
    is on neither side. A title learned by heart in a lesson would be given in another, and the weights kept would be those that remember
    most. What answers more than a hundredth of all lessons is a label among them, and must be learned.
    """
    kinds, kind, times = np.unique(np.array(targets, object), return_inverse=True, return_counts=True)
    alone = np.arange(len(targets))
    group = np.where(times[kind] * 100 > len(targets), len(kinds) + alone, kind) if len(targets) < TITLES * len(kinds) else alone
    order = np.argsort(np.argsort(rng.permutation(group.max(initial=-1) + 1))[group], kind="stable")
    held, others = np.split(order, [min(max(len(order) // 10, 1), HELD_OUT)])
    return held, others[~np.isin(group[others], group[held])]


def _by_length(rows: npt.NDArray[np.int64], prompts: Sequence[str], batches: int, rng: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    """The rows in batches of prompts about as long, the batches in any order."""
    if batches == 1:
        return [rows]
    cut = np.split(rows[np.argsort([len(prompts[i]) for i in rows], kind="stable")], batches)
    return [cut[i] for i in rng.permutation(batches)]


def _length(step: int, longest: int, shorter: bool) -> int:
    """Vectors of ``P₀`` that the batch of this step stands behind: none in even steps, with ``shorter`` fewer than all in every eighth."""
    if step % 2 == 0:
        return 0
    return 1 + step // 8 % longest if shorter and step % 8 == 7 else longest
