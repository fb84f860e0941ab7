"""Writes a tiny home with the release that is installed: the stored homes of earlier releases were made by it.

    python tests/homes/make_home.py tests/homes/home-0.1.0.tar.xz

Everything goes through the command line, so the script outlives changes inside. Its data are drawn from a seed. The archive holds
``encoder`` (a text encoder of one layer) and ``home``; whoever unpacks it lets ``encoder.model`` in ``home/config.toml`` name the encoder.
"""

import io
import json
import lzma
import os
import random
import string
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast, LlamaConfig, LlamaForCausalLM

USERS, DAYS, START = 14, 10, 1_700_006_400
CONFIG = {
    "max_tokens": 16, "slots": 2, "dim": 8, "window": 3, "hidden": 8, "prefix_length": 1, "steps": 2, "batch_size": 4,
    "evaluate_every": 1, "shard_events": 64,
}  # fmt: skip
#: What a run leaves beside the home's own data.
LEFT_OUT = {"prefect"}


def models(place: Path) -> None:
    """An encoder and an LLM with random weights over letters and digits."""
    letters = string.ascii_lowercase + string.digits
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(words)})
    torch.manual_seed(0)
    # The export is checked on ids up to 1000.
    shape = {"vocab_size": 1024, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(**shape, max_position_embeddings=64)).save_pretrained(place / "encoder")
    LlamaForCausalLM(LlamaConfig(**{**shape, "vocab_size": len(words)})).save_pretrained(place / "llm")
    for name in ("encoder", "llm"):
        tokenizer.save_pretrained(place / name)


def events(first: int, last: int) -> str:
    """Lines of the events of some days."""
    rng = random.Random(first)
    rows = [
        {"user_id": f"user {user}", "ts": START + 86_400 * day + 60 * user, "text": f"item {rng.randrange(30)}", "target": rng.choice("ab")}
        for day in range(first, last)
        for user in range(USERS)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def main(archive: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        models(place)

        def tapstate(*arguments: str) -> None:
            command = [sys.executable, "-m", "flows.cli", "--home", str(place / "home"), *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

        def ingest(first: int, last: int) -> None:
            (place / "rows.jsonl").write_text(events(first, last))
            tapstate("ingest", "table", str(place / "rows.jsonl"), "--historical")

        tapstate("init", "--encoder", str(place / "encoder"), "--llm", str(place / "llm"))
        config = place / "home" / "config.toml"
        lines = config.read_text().splitlines()
        config.write_text("".join(f"{k} = {CONFIG[k]}\n" if (k := line.split(" ")[0]) in CONFIG else f"{line}\n" for line in lines))
        ingest(0, DAYS - 1)
        tapstate("train")
        tapstate("refresh", "--no-bundle")
        ingest(DAYS - 1, DAYS)
        tapstate("refresh")
        pack(archive, place, ("encoder", "home"))


def pack(archive: Path, place: Path, folders: tuple[str, ...]) -> None:
    """A tar.xz of the folders, without times and owners; its window is long enough to store the bundle's graphs once."""
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as tar:
        for folder in folders:
            for path in sorted(p for p in (place / folder).rglob("*") if p.is_file()):
                relative = path.relative_to(place)
                if not LEFT_OUT & set(relative.parts):
                    member = tarfile.TarInfo(str(relative))
                    member.size = path.stat().st_size
                    tar.addfile(member, io.BytesIO(path.read_bytes()))
    archive.write_bytes(lzma.compress(body.getvalue(), preset=9))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]))
