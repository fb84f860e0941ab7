"""A fused prefix into ``generate`` of a causal model: ``[BOS; P; text]``."""

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prefix: np.ndarray, prompt: str, new_tokens: int = 24) -> str:
    """Greedy answer to ``prompt`` under ``prefix``, float32 ``[L, d_llm]`` of ``bundle.prefix([user], [query]).prefix[0]``."""
    embed = model.get_input_embeddings()
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    parts = [torch.from_numpy(prefix).to(embed.weight.dtype)[None], embed(ids)]
    if tokenizer.bos_token_id is not None:
        parts.insert(0, embed(torch.tensor([[tokenizer.bos_token_id]])))
    inputs = torch.cat(parts, 1)
    with torch.inference_mode():
        # With inputs_embeds, generate returns the new tokens alone.
        out = model.generate(
            inputs_embeds=inputs, attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long), max_new_tokens=new_tokens, do_sample=False
        )
    return tokenizer.decode(out[0], skip_special_tokens=True)
