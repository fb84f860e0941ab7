"""A fused prefix into ``generate`` of an encoder-decoder model: ``[P; text]``."""

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prefix: np.ndarray, prompt: str, new_tokens: int = 24) -> str:
    """Greedy answer to ``prompt`` under ``prefix``, float32 ``[L, d_llm]``."""
    embed = model.get_input_embeddings()
    # The tokenizer's own end-of-text token closes the encoder's input, as it did in training.
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    inputs = torch.cat([torch.from_numpy(prefix).to(embed.weight.dtype)[None], embed(ids)], 1)
    with torch.inference_mode():
        out = model.generate(
            inputs_embeds=inputs, attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long), max_new_tokens=new_tokens, do_sample=False
        )
    return tokenizer.decode(out[0], skip_special_tokens=True)
