"""A text encoder that costs next to nothing, for benchmarks of everything else."""

import string
from pathlib import Path


def tiny_encoder(directory: Path) -> Path:
    """A BERT of one layer with random weights and a vocabulary of letters, written to ``directory``."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    letters = string.ascii_lowercase + string.digits
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(directory)
    torch.manual_seed(0)
    shape = BertConfig(vocab_size=128, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    BertModel(shape).save_pretrained(directory)
    return directory
