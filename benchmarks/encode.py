"""Encoding against ``SentenceTransformer.encode``: the same model, texts and cores, in turns in one run.

``python -m benchmarks.encode --data DIR --output json``: ``ratio`` (our texts per second over theirs, the median of the pairs of runs),
``cosine`` (mean of ours with theirs, which are float32), ``texts_per_second``, ``device``; on a GPU ``matmul_share`` of the measured
bf16 rate. ``DIR/huffpost_news.jsonl.gz`` gives the texts: headlines, and headlines with their summaries, so that lengths are mixed.
``paths``: texts per second and mean cosine of every way to compute the same model on this CPU, in the same batches (``--paths``).
"""

import gzip
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
import typer
from onnxruntime.quantization import quantize_dynamic

from encoders.adapter import QueryAdapter
from encoders.export import export_query_encoder
from encoders.text import TextEncoder, best_device, default_model
from schemas.config import EncoderConfig

FILE = "huffpost_news.jsonl.gz"


class OnnxEncoder(TextEncoder):
    """The encoder as onnxruntime computes it, on as many threads as torch has.

    Args:
        quantized: weights, and what they are multiplied with, as int8.
    """

    def __init__(self, *, quantized: bool) -> None:
        super().__init__(EncoderConfig(precision="float32"), torch.device("cpu"))
        # A new adapter adds nothing.
        graph = export_query_encoder(self, QueryAdapter(self.dim))
        if quantized:
            with tempfile.TemporaryDirectory() as place:
                small, plain = Path(place) / "small.onnx", onnx.load_from_string(graph)
                # Shapes that the exporter noted; the quantizer changes some and then finds them to differ.
                del plain.graph.value_info[:]
                quantize_dynamic(plain, small)
                graph = small.read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])

    def _batch(self, ids: list[list[int]], length: int) -> torch.Tensor:
        padded = self._padded(ids, length)
        made = self.session.run(["query"], {"input_ids": padded[0], "attention_mask": padded[1]})[0]
        return torch.from_numpy(made[: len(ids)]).to(torch.float16)


def run(
    data: Annotated[Path, typer.Option(help=f"Directory with {FILE}.")] = Path("../shared/data"),
    texts: Annotated[int, typer.Option(help="Texts; 0: as many as suit the device.")] = 0,
    repeats: Annotated[int, typer.Option(help="Runs of each, in turns.")] = 3,
    precision: Annotated[str, typer.Option(help="float32, as a home has it by default, or bfloat16.")] = "bfloat16",
    paths: Annotated[bool, typer.Option("--paths", help="Compare torch and onnxruntime, in several precisions, too; on a CPU.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the choice of texts.")] = 0,
    output: Annotated[str, typer.Option(help="json.")] = "json",
) -> None:
    """Print one JSON object."""
    from sentence_transformers import SentenceTransformer

    device = best_device()
    if paths and device.type != "cpu":
        raise typer.BadParameter("CPU paths are compared where there is no GPU", param_hint="--paths")
    chosen = sample(data / FILE, texts or (100_000 if device.type == "cuda" else 2_048), seed)
    ours = TextEncoder(EncoderConfig.model_validate({"precision": precision}))
    theirs = SentenceTransformer(default_model(), device=device.type)
    theirs.max_seq_length = ours.max_tokens

    def reference() -> npt.NDArray[Any]:
        return np.asarray(theirs.encode(chosen, normalize_embeddings=True, show_progress_bar=False))

    for warm in (ours.encode, theirs.encode):
        warm(chosen[:64])
    pairs = []
    for _ in range(repeats):
        (mine, found), (other, wanted) = timed(lambda: ours.encode(chosen)), timed(reference)
        pairs.append((mine, other))
    cosines = _cosines(found, wanted)
    best = min(mine for mine, _ in pairs)
    result = {
        "ratio": round(float(np.median([other / mine for mine, other in pairs])), 2),
        "cosine": round(float(cosines.mean()), 6),
        "cosine_min": round(float(cosines.min()), 6),
        "texts_per_second": round(len(chosen) / best, 1),
        "sentence_transformer_texts_per_second": round(len(chosen) / min(other for _, other in pairs), 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "precision": ours.config.precision,
        "texts": len(chosen),
        "mean_tokens": round(float(np.mean([len(x) for x in ours.tokenizer(chosen)["input_ids"]])), 1),
    }
    if device.type == "cuda":
        result["matmul_share"] = round(_flops(ours, chosen) / best / _matmul_rate(), 3)
    if paths:
        result["paths"] = _compared(chosen, wanted, repeats)
    print(json.dumps(result))


def _compared(texts: list[str], wanted: npt.NDArray[Any], repeats: int) -> dict[str, dict[str, float]]:
    """Speed and loss of each path; the best of ``repeats`` runs, in turns."""
    cpu = torch.device("cpu")
    every = {f"torch {p}": TextEncoder(EncoderConfig.model_validate({"precision": p}), cpu) for p in ("float32", "bfloat16")}
    every |= {f"onnxruntime {name}": OnnxEncoder(quantized=q) for name, q in (("float32", False), ("int8", True))}
    for encoder in every.values():
        encoder.encode(texts[:64])
    runs = [{name: timed(partial(encoder.encode, texts)) for name, encoder in every.items()} for _ in range(repeats)]
    return {
        name: {
            "texts_per_second": round(len(texts) / min(run[name][0] for run in runs), 1),
            "cosine": round(float(_cosines(runs[0][name][1], wanted).mean()), 6),
        }
        for name in every
    }


def _cosines(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Of float16 vectors with unit vectors."""
    unit = found.astype(np.float32)
    return np.asarray((unit / np.linalg.norm(unit, axis=1, keepdims=True) * wanted).sum(1))


def sample(path: Path, count: int, seed: int) -> list[str]:
    """Headlines, and headlines with their summaries, in turn."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    picked = np.random.default_rng(seed).choice(len(rows), min(count, len(rows)), replace=False)
    return [rows[i]["headline"] if n % 2 else f"{rows[i]['headline']}. {rows[i]['text']}" for n, i in enumerate(picked)]


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call, and what it gave."""
    started = time.perf_counter()
    made = function()
    return time.perf_counter() - started, made


def _flops(encoder: TextEncoder, texts: list[str]) -> float:
    """Of the products with weights: what cannot be saved."""
    layers = [m for m in encoder.pooling.modules() if isinstance(m, torch.nn.Linear)]
    each = 2 * sum(m.weight.numel() for m in layers)
    return float(each * sum(len(x) for x in encoder.tokenizer(texts)["input_ids"]))


def _matmul_rate() -> float:
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (time.perf_counter() - started)


if __name__ == "__main__":
    typer.run(run)
