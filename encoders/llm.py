"""The frozen LLM behind soft prompts: any Hugging Face causal or sequence-to-sequence model.

Input order: encoder-decoder ``[P; text]``, causal ``[BOS; P; text]``. The model's own parameters never change here.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    EncoderDecoderModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from encoders.text import best_device
from schemas.config import LLMConfig
from schemas.errors import ConfigError
from schemas.keys import content_hash

NEUTRAL = "neutral_prefix.safetensors"
IGNORE = -100


class FrozenLLM:
    """A causal or sequence-to-sequence model fed by prefixes.

    Args:
        model, tokenizer: as transformers loads them.
        config: prompt template and longest texts, in tokens.
        neutral: the neutral prefix ``P₀`` the model was tuned with, float32 ``[L, d]`` of rms 1, if any.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: LLMConfig, neutral: Tensor | None = None
    ) -> None:
        self.config, self.tokenizer, self.neutral = config, tokenizer, neutral
        # As it came: its first use changes what it says of padding and truncation.
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._tokenizer_json: str | None = backend.to_str() if backend else None
        self.device = best_device()
        model.to(self.device)  # type: ignore[arg-type]
        if config.precision == "bfloat16" and self.device.type == "cpu":
            # torch 2.13's fused attention takes 84 ms backwards there where plain products take 1.
            model.set_attn_implementation("eager")
        self.model = model.eval().requires_grad_(False)
        self.kind: Literal["causal", "seq2seq"] = "seq2seq" if model.config.is_encoder_decoder else "causal"
        embedding = model.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        self.embedding = embedding
        self.dim = self.embedding.embedding_dim
        pad = next((t for t in (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id) if t is not None), 0)
        end = next((t for t in (tokenizer.eos_token_id, tokenizer.sep_token_id) if t is not None), pad)
        begin = next((t for t in (tokenizer.bos_token_id, tokenizer.cls_token_id) if t is not None), None)
        self.pad, self.end, self.begin = int(pad), int(end), begin

    @classmethod
    def load(cls, config: LLMConfig) -> "FrozenLLM":
        """The model at ``config.model`` (directory or id), with the neutral prefix beside it when there is one.

        Raises:
            ConfigError: no such model, or not a causal or sequence-to-sequence one.
        """
        try:
            kind = AutoConfig.from_pretrained(config.model)
            auto: Any = AutoModelForSeq2SeqLM if kind.is_encoder_decoder else AutoModelForCausalLM
            if kind.model_type == "encoder-decoder":
                auto = EncoderDecoderModel
            model, loading = auto.from_pretrained(config.model, dtype=getattr(torch, config.precision), output_loading_info=True)
            tokenizer = AutoTokenizer.from_pretrained(config.model)
            if loading["missing_keys"]:
                lost = sorted(loading["missing_keys"])
                raise ValueError(f"the weights lack {len(lost)} tensors, {lost[0]} first: not a causal or seq2seq model")
        except Exception as error:
            raise ConfigError(
                f"no usable LLM: {error}", where=config.model, mend="train --llm DIRECTORY_OR_ID of a causal or seq2seq model"
            ) from error
        path = Path(config.model) / NEUTRAL
        neutral = load_file(path)["neutral"] if path.is_file() else None
        return cls(model, tokenizer, config, neutral)

    def save(self, directory: Path) -> None:
        """Model, tokenizer and neutral prefix, so that ``load`` gives the same again."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        if self._tokenizer_json:
            (directory / "tokenizer.json").write_text(self._tokenizer_json)
        if self.neutral is not None:
            save_file({"neutral": self.neutral.detach().cpu().contiguous()}, directory / NEUTRAL)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over weights, tokenizer, prompt templates and neutral prefix."""
        parts = [t.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() for _, t in sorted(self.model.state_dict().items())]
        names = sorted(self.model.state_dict())
        neutral = b"" if self.neutral is None else self.neutral.detach().cpu().numpy().tobytes()
        prompts = [self.config.prompts] if self.config.prompts else []
        return content_hash(names, *parts, self._tokenizer_json or self._vocabulary(), self.config.prompt, neutral, *prompts)

    def _vocabulary(self) -> str:
        """What a tokenizer written in Python is made of (ByT5): it has no tokenizer.json."""
        with TemporaryDirectory() as place:
            files = [Path(file).read_bytes().hex() for file in self.tokenizer.save_vocabulary(place)]
        return json.dumps([type(self.tokenizer).__name__, self.tokenizer.get_vocab(), files], sort_keys=True)

    def describe(self) -> dict[str, Any]:
        """What a manifest says of the LLM."""
        name = self.config.model or "tuned from the home's events"
        return {
            "model": name,
            "kind": self.kind,
            "hidden_size": self.dim,
            "fingerprint": self.fingerprint,
            "prompt": self.config.prompt,
            **({"prompts": self.config.prompts} if self.config.prompts else {}),
            "precision": self.config.precision,
        }

    def embedding_rms(self, texts: Sequence[str]) -> float:
        """rms of the input embeddings over the token occurrences of ``texts``."""
        ids = torch.tensor([i for row in self._tokens(texts, self.config.max_prompt_tokens) for i in row] or [self.pad])
        with torch.no_grad():
            return float(self._embed(ids.to(self.device)).square().mean().sqrt())

    def neutral_prefix(self, length: int) -> tuple[Tensor, bool]:
        """``P₀`` ``[length, d]`` of rms 1 and whether it is frozen: the model met it in tuning.

        A shorter prefix is the first vectors of the model's own, which it met too. A model without one starts from rows of its
        embeddings, trained with the head.

        Raises:
            ConfigError: the model's neutral prefix is shorter.
        """
        if self.neutral is not None:
            if len(self.neutral) < length:
                raise ConfigError(
                    f"the LLM was tuned with a prefix of {len(self.neutral)} vectors, not {length}",
                    where=self.config.model,
                    mend=f"set train.prefix_length to {len(self.neutral)} or less",
                )
            return self.neutral[:length].clone(), True
        return initial_prefix(self.embedding.weight, length), False

    def loss(self, prefix: Tensor, prompts: Sequence[str], targets: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Per example: mean cross-entropy over the target's tokens (differentiable), and whether greedy decoding gives it exactly.

        Args:
            prefix: float32 ``[n, L, d]``.
            prompts, targets: n texts each.

        Returns:
            float32 ``[n]`` and bool ``[n]``.
        """
        tail = self._tokens(targets, self.config.max_target_tokens - 1, end=True, cut="end")
        if self.kind == "seq2seq":
            inputs, mask = self._prefixed(prefix, self._tokens(prompts, self.config.max_prompt_tokens, end=True))
            labels = self._pad(tail, IGNORE)
            logits = self.model(inputs_embeds=inputs, attention_mask=mask, labels=labels).logits
        else:
            heads = self._tokens(prompts, self.config.max_prompt_tokens)
            inputs, mask = self._prefixed(prefix, [h + t for h, t in zip(heads, tail, strict=True)])
            front = inputs.shape[1] - max([1, *(len(h) + len(t) for h, t in zip(heads, tail, strict=True))])
            labels = torch.full(inputs.shape[:2], IGNORE, device=self.device)
            for row, (head, target) in enumerate(zip(heads, tail, strict=True)):
                start = front + len(head)
                labels[row, start : start + len(target)] = torch.tensor(target, device=self.device)
            logits = self.model(inputs_embeds=inputs, attention_mask=mask).logits[:, :-1]
            labels = labels[:, 1:]
        # One row a token: over a transposed view the softmax costs twice as much.
        rows = logits.float().reshape(-1, logits.shape[-1])
        token_loss = nn.functional.cross_entropy(rows, labels.reshape(-1), ignore_index=IGNORE, reduction="none").view_as(labels)
        counted = labels != IGNORE
        right = ((logits.argmax(-1) == labels) | ~counted).all(1)
        return token_loss.sum(1) / counted.sum(1).clamp(min=1), right

    @torch.inference_mode()
    def generate(self, prefix: Tensor, prompts: Sequence[str]) -> list[str]:
        """Greedy answers to ``prompts`` under ``prefix`` ``[n, L, d]``."""
        if self.kind == "seq2seq":
            inputs, mask = self._prefixed(prefix, self._tokens(prompts, self.config.max_prompt_tokens, end=True))
        else:
            inputs, mask = self._prefixed(prefix, self._tokens(prompts, self.config.max_prompt_tokens), left=True)
        out = self.model.generate(
            inputs_embeds=inputs,
            attention_mask=mask,
            do_sample=False,
            num_beams=1,
            max_new_tokens=self.config.max_target_tokens,
            pad_token_id=self.pad,
            eos_token_id=self.end,
        )
        return [text.strip() for text in self.tokenizer.batch_decode(out, skip_special_tokens=True)]

    def written(self, targets: Sequence[str]) -> list[str]:
        """Each target as ``generate`` gives it when the LLM says it: a word-piece tokenizer turns "3.5" into "3. 5"."""
        ids = self._tokens(targets, self.config.max_target_tokens - 1, cut="end")
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    @torch.no_grad()
    def target_embeddings(self, targets: Sequence[str]) -> Tensor:
        """Mean input embedding of each target's tokens, float32 ``[n, d]``: what naming it in the prompt would look like."""
        rows = self._tokens(targets, self.config.max_target_tokens, cut="end")
        return torch.stack([self._embed(torch.tensor(row or [self.pad], device=self.device)).mean(0) for row in rows])

    def _embed(self, ids: Tensor) -> Tensor:
        return self.embedding(ids).float()

    def _tokens(self, texts: Sequence[str], longest: int, *, end: bool = False, cut: Literal["start", "end"] = "start") -> list[list[int]]:
        if not texts:
            return []
        rows = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        kept = [row[:longest] if cut == "end" else row[-longest:] for row in rows]
        return [[*row, self.end] if end else list(row) for row in kept]

    def _pad(self, rows: list[list[int]], fill: int) -> Tensor:
        longest = max([1, *(len(row) for row in rows)])
        return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], device=self.device)

    def _prefixed(self, prefix: Tensor, rows: list[list[int]], left: bool = False) -> tuple[Tensor, Tensor]:
        """``[P; rows]`` or ``[BOS; P; rows]`` as embeddings ``[n, t, d]`` and mask; ``left`` pads before, for generation."""
        ids = self._pad(rows, self.pad)
        mask = self._pad([[1] * len(row) for row in rows], 0)
        parts = [prefix.to(self.device), self._embed(ids)]
        if self.kind == "causal" and self.begin is not None:
            begin = torch.full((len(rows), 1), int(self.begin), device=self.device)
            parts.insert(0, self._embed(begin))
        front = sum(part.shape[1] for part in parts[:-1])
        embeds = torch.cat(parts, 1).to(self.model.dtype)
        mask = torch.cat([mask.new_ones(len(rows), front), mask], 1)
        if left:
            order = torch.argsort(mask, dim=1, stable=True)
            embeds = torch.gather(embeds, 1, order[..., None].expand_as(embeds))
            mask = torch.gather(mask, 1, order)
        return embeds, mask


def initial_prefix(embeddings: Tensor, length: int) -> Tensor:
    """A first ``P₀`` ``[length, d]`` of rms 1: rows of the embedding matrix, evenly spaced, each scaled to rms 1."""
    rows = embeddings.detach().float().cpu()
    picked = rows[torch.linspace(0, len(rows) - 1, length).long()]
    return picked / picked.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
