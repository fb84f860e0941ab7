"""What vLLM takes: ``prompt_embeds`` of shape ``[tokens, hidden_size]``, the whole prompt as embeddings.

Between machines prefixes travel as safetensors (or as Arrow from ``tapstate serve``), never as pickles. vLLM's own Completions API
is the one exception, and not ours to choose: it takes base64 of ``torch.save``, made here by the caller beside vLLM.
"""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file


def prompt_embeds(prefix: np.ndarray, embedding: torch.Tensor, ids: list[int], bos: int | None) -> torch.Tensor:
    """``[BOS; P; text]`` as one tensor ``[1 + L + tokens, hidden_size]`` in the model's dtype, contiguous, on the CPU.

    Args:
        prefix: float32 ``[L, hidden_size]``.
        embedding: the LLM's input embeddings ``[vocabulary, hidden_size]``.
        ids: tokens of the prompt, templated already: with embeddings, the Completions API applies no chat template.
    """
    if prefix.ndim != 2 or prefix.shape[1] != embedding.shape[1]:
        raise ValueError(f"a prefix of shape {prefix.shape} does not fit an LLM of hidden size {embedding.shape[1]}")
    rows = [torch.from_numpy(prefix).to(embedding.dtype), embedding[torch.tensor(ids, dtype=torch.long)]]
    if bos is not None:
        rows.insert(0, embedding[bos][None])
    return torch.cat(rows).detach().cpu().contiguous()


def offline(embeds: torch.Tensor) -> dict[str, torch.Tensor]:
    """``vllm.LLM(model, enable_prompt_embeds=True).generate(offline(embeds))``."""
    return {"prompt_embeds": embeds}


def completions_body(model: str, embeds: torch.Tensor, max_tokens: int = 24) -> dict[str, Any]:
    """Body of ``POST /v1/completions`` of ``vllm serve --enable-prompt-embeds``."""
    buffer = io.BytesIO()
    torch.save(embeds, buffer)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return {"model": model, "prompt_embeds": encoded, "max_tokens": max_tokens, "temperature": 0.0}


def store(prefix: np.ndarray, path: Path) -> None:
    """A prefix as a file for another machine."""
    save_file({"prefix": np.ascontiguousarray(prefix)}, path)
