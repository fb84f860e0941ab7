"""The benchmark's frozen LLM: a warm-started encoder-decoder, tuned once a task on users outside the test, then kept by hash.

``python -m benchmarks.frozen --task news-category --data DIR``
"""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.bench import Bench, build, describe
from benchmarks.tasks import Task, choose
from encoders.llm import FrozenLLM
from encoders.text import TextEncoder, default_model
from encoders.tuning import tune, warm_seq2seq
from pipelines.memory import keep_freed
from schemas.config import EncoderConfig, LLMConfig
from schemas.errors import TapstateError
from schemas.keys import content_hash

CACHE = Path(__file__).parent / ".cache"
#: Layers of MiniLM that the encoder starts from, and the decoder by kind of task; with all six of each, two CPU cores train a third as many
#: examples a second.
ENCODER_LAYERS = 3
DECODER_LAYERS = {"label": 1, "rating": 1, "text": 3}
LENGTH = 8
#: Of tuning, by kind of task: a few thousand titles are soon learned by heart.
STEPS = {"label": 1_600, "rating": 1_600, "text": 1_000}
RATE, POOL = 5e-4, 8
#: Answers are labels, or titles for the writing tasks.
LLM = LLMConfig(max_prompt_tokens=112, max_target_tokens=8, precision="bfloat16")
WRITING = LLMConfig(max_prompt_tokens=192, max_target_tokens=24, precision="bfloat16")


def config_for(task: Task) -> LLMConfig:
    """Template and longest texts of a task: what its LLM reads of a query, and four items."""
    config = WRITING if task.kind == "text" else LLM
    # English has more than three characters a token.
    more = (task.characters - Task.characters) // 3
    return config.model_copy(update={"max_prompt_tokens": config.max_prompt_tokens + more})


def frozen_llm(bench: Bench, cache: Path = CACHE, *, steps: int | None = None, seed: int = 0) -> FrozenLLM:
    """The LLM of a task: the one in ``cache``, or one tuned now and kept there."""
    config, steps = config_for(bench.task), steps or STEPS[bench.task.kind]
    # Labels are told apart without it, and their LLMs were tuned before it was tried.
    warm = bench.task.kind != "label"
    # MiniLM's embeddings were never an output layer: tuned, with a decoder of three layers, held-out titles of news cost 5.36 a token and
    # told ones 1.2; frozen, with one layer, 5.57 and 2.0 (600 steps each).
    writes = bench.task.kind == "text"
    decoder = DECODER_LAYERS[bench.task.kind]
    shape = [ENCODER_LAYERS, decoder, LENGTH, RATE, POOL, config.precision, *(["warm cross-attention"] if warm else []), steps, seed]
    shape += ["embeddings", "titles held out whole"] if writes else []
    made_of = content_hash([*bench.lessons.prompts, *bench.lessons.targets, *shape])
    directory = cache / f"llm-{bench.task.name}-{bench.task.data}-{made_of[:12]}"
    if not (directory / "about.json").is_file():
        started = time.monotonic()

        def progress(_: int, figures: dict[str, float]) -> None:
            progress.step += 1  # type: ignore[attr-defined]
            if progress.step % 10 == 0:  # type: ignore[attr-defined]
                said = " ".join(f"{name} {figure:.3f}" for name, figure in figures.items())
                print(f"tune {progress.step} {said} {time.monotonic() - started:.0f}s", file=sys.stderr, flush=True)  # type: ignore[attr-defined]

        progress.step = 0  # type: ignore[attr-defined]
        threads = torch.get_num_threads()
        # Sums in another order make another LLM: its hash must not depend on how many cores there are.
        torch.set_num_threads(1)
        llm = tune(
            lambda: warm_seq2seq(default_model(), ENCODER_LAYERS, decoder, warm_cross_attention=warm),
            bench.lessons,
            config,
            prefix_length=LENGTH,
            steps=steps,
            learning_rate=RATE,
            seed=seed,
            embeddings=writes,
            shorter=True,
            pool=POOL,
            progress=progress,
        )
        torch.set_num_threads(threads)
        llm.save(directory)
        about = {"fingerprint": llm.fingerprint, "steps": steps, "seed": seed, "seconds": round(time.monotonic() - started)}
        (directory / "about.json").write_text(json.dumps(about))
    return FrozenLLM.load(config.model_copy(update={"model": str(directory)}))


def run(
    task: Annotated[str, typer.Option(help="Task.")],
    data: Annotated[Path, typer.Option(help="Directory of the data sets.")] = Path("../shared/data"),
    cache: Annotated[Path, typer.Option(help="Where encoded texts and tuned LLMs are kept.")] = CACHE,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of tuning. [default: by kind of task]")] = None,
    source: Annotated[str, typer.Option(help="Data set of the task. [default: its first]")] = "",
) -> None:
    """Make, or find, a task's frozen LLM and print its hash."""
    keep_freed()
    try:
        chosen = choose(data, [task], source)[0]
        bench = build(chosen, data, cache, TextEncoder(EncoderConfig()), config_for(chosen))
    except TapstateError as error:
        sys.exit(str(error))
    print(describe(bench), file=sys.stderr, flush=True)
    llm = frozen_llm(bench, cache, steps=steps)
    print(json.dumps(llm.describe()))


if __name__ == "__main__":
    typer.run(run)
