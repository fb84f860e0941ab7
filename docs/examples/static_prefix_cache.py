"""A static prefix's keys and values, computed once a user and reused for every query of theirs."""

import copy

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase


def remember(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prefix: np.ndarray) -> DynamicCache:
    """The cache after ``[BOS; P]``; ``prefix`` is ``bundle.static_prefix([user]).prefix[0]``, the same bytes in every request."""
    embed = model.get_input_embeddings()
    inputs = torch.from_numpy(prefix).to(embed.weight.dtype)[None]
    if tokenizer.bos_token_id is not None:
        inputs = torch.cat([embed(torch.tensor([[tokenizer.bos_token_id]])), inputs], 1)
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(inputs_embeds=inputs, past_key_values=cache, use_cache=True)
    return cache


def logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, cache: DynamicCache, prompt: str) -> torch.Tensor:
    """Logits of ``prompt``'s tokens ``[t, vocabulary]``; the cache is copied, since a model writes into the one it is given."""
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return model(input_ids=ids, past_key_values=copy.deepcopy(cache), use_cache=True).logits[0]
