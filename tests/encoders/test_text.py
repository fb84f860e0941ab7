"""A text's vector is its own: no company, order or call changes it."""

import hashlib
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from encoders.text import LENGTHS, TextEncoder, default_model
from schemas.config import EncoderConfig
from schemas.errors import ConfigError

TEXTS = [
    "",
    " ",
    "a",
    "fix race in scheduler",
    "Ein längerer Satz mit Umlauten: äöüß, und 漢字, und 🙂🏽.",
    "\u200b\x00\ud7ff control",
    "word " * 30,
    "many different words follow one another here " * 12,
    "long " * 300,
    "x" * 500,
    "مرحبا بالعالم",
]


def company(count: int, seed: int) -> list[str]:
    """Texts of mixed lengths, so that every bucket has more than one batch's worth somewhere."""
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{i}" for i in rng.integers(0, 999, rng.integers(1, 40))) for _ in range(count)]


def test_weights_are_the_published_ones() -> None:
    digest = hashlib.sha256((Path(default_model()) / "model.safetensors").read_bytes()).hexdigest()
    assert digest.startswith("53aa5117")


def test_vectors_are_units_of_the_declared_width(minilm: TextEncoder) -> None:
    vectors = minilm.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), minilm.dim)
    assert vectors.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, atol=2e-3)
    assert minilm.encode([]).shape == (0, minilm.dim)


@pytest.mark.parametrize("seed", [0, 1])
def test_company_and_order_change_no_bit(minilm: TextEncoder, seed: int) -> None:
    alone = {text: minilm.encode([text])[0].tobytes() for text in TEXTS}
    crowd = TEXTS + company(80, seed)
    order = np.random.default_rng(seed).permutation(len(crowd))
    vectors = minilm.encode([crowd[i] for i in order])
    for place, i in enumerate(order):
        if i < len(TEXTS):
            assert vectors[place].tobytes() == alone[crowd[i]], crowd[i][:40]


def test_a_text_at_any_place_of_a_full_batch_is_the_same(minilm: TextEncoder) -> None:
    others = [f"number {i}" for i in range(200)]
    wanted = minilm.encode(["fix race"])[0].tobytes()
    for place in (0, 1, 63, 127, 128, 199):
        assert minilm.encode([*others[:place], "fix race", *others[place:]])[place].tobytes() == wanted


def test_every_length_keeps_its_row(minilm: TextEncoder) -> None:
    """Texts at the edges of the buckets come back at their own places, each the same as when encoded alone."""
    texts = [" ".join(["red"] * n) for n in sorted({max(1, edge - 2 + d) for edge in LENGTHS for d in (0, 1)} - set(range(130, 600)))]
    together = minilm.encode(texts[::-1])[::-1]
    for i in range(0, len(texts), 5):
        assert minilm.encode([texts[i]])[0].tobytes() == together[i].tobytes()


def test_agrees_with_the_sentence_transformers_recipe(minilm: TextEncoder) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(default_model()), AutoModel.from_pretrained(default_model()).eval()
    ours = minilm.encode(TEXTS).astype(np.float64)
    for text, vector in zip(TEXTS, ours, strict=True):
        inputs = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            mean = model(**inputs).last_hidden_state[0].mean(0).double().numpy()
        cosine = vector @ mean / np.linalg.norm(mean) / np.linalg.norm(vector)
        assert cosine >= 0.9999, text[:40]


def test_close_meanings_lie_close(minilm: TextEncoder) -> None:
    a, b, c = minilm.encode(["a dog plays in the park", "a puppy runs on the grass", "quarterly tax report"]).astype(np.float32)
    assert a @ b > a @ c + 0.2


def test_a_text_of_5_mb_is_cut_and_quick(minilm: TextEncoder) -> None:
    start = time.monotonic()
    long, cut = minilm.encode(["river bank " * 480_000, "river bank " * 1000])
    assert time.monotonic() - start < 30
    assert long.tobytes() == cut.tobytes()


def test_progress_counts_every_text(minilm: TextEncoder) -> None:
    done: list[int] = []
    minilm.encode(TEXTS, done.append)
    assert sum(done) == len(TEXTS)


def test_fingerprint_names_what_shapes_a_vector(tiny_encoder_dir: Path) -> None:
    def fingerprint(**options: object) -> str:
        return TextEncoder(EncoderConfig(model=str(tiny_encoder_dir), **options)).fingerprint

    first = fingerprint()
    assert fingerprint() == first
    assert len({first, fingerprint(max_tokens=64), fingerprint(precision="bfloat16")}) == 3


def test_fingerprint_survives_encoding(tiny_encoder_dir: Path) -> None:
    used, fresh = (TextEncoder(EncoderConfig(model=str(tiny_encoder_dir), max_tokens=32)) for _ in range(2))
    used.encode(TEXTS)
    used.tokenizer("padded", padding="max_length", max_length=9, truncation=True)
    assert used.fingerprint == fresh.fingerprint
    assert used.tokenizer_json() == fresh.tokenizer_json()


def test_fingerprint_follows_the_weights(tiny_encoder_dir: Path) -> None:
    a, b = (TextEncoder(EncoderConfig(model=str(tiny_encoder_dir))) for _ in range(2))
    next(b.pooling.parameters()).view(-1)[7] += 1e-3
    assert a.fingerprint != b.fingerprint


def without(good: Path, directory: Path, part: str) -> EncoderConfig:
    """The model at ``good`` saved without the weights whose names contain ``part``."""
    shutil.copytree(good, directory)
    weights = load_file(directory / "model.safetensors")
    save_file({k: v for k, v in weights.items() if part not in k}, directory / "model.safetensors", {"format": "pt"})
    return EncoderConfig(model=str(directory))


def test_a_model_published_without_its_pooler_keeps_one_fingerprint(tmp_path: Path, tiny_encoder_dir: Path) -> None:
    config = without(tiny_encoder_dir, tmp_path / "no-pooler", "pooler")
    a, b = TextEncoder(config), TextEncoder(config)
    assert a.fingerprint == b.fingerprint
    assert a.encode(TEXTS).tobytes() == TextEncoder(EncoderConfig(model=str(tiny_encoder_dir))).encode(TEXTS).tobytes()


def test_a_model_that_lacks_weights_is_not_filled_at_random(tmp_path: Path, tiny_encoder_dir: Path) -> None:
    with pytest.raises(ConfigError, match="attention"):
        TextEncoder(without(tiny_encoder_dir, tmp_path / "holes", "attention"))


def test_longest_text_obeys_the_model(tiny_encoder_dir: Path) -> None:
    encoder = TextEncoder(EncoderConfig(model=str(tiny_encoder_dir), max_tokens=4096))
    assert encoder.max_tokens == 512
    assert np.isfinite(encoder.encode(["word " * 3000])).all()


def _no_directory(directory: Path, _: Path) -> None:
    assert not directory.exists()


def _no_files(directory: Path, _: Path) -> None:
    directory.mkdir()


def _no_weights(directory: Path, good: Path) -> None:
    shutil.copytree(good, directory)
    (directory / "model.safetensors").unlink()


def _cut_weights(directory: Path, good: Path) -> None:
    shutil.copytree(good, directory)
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def _unknown_architecture(directory: Path, good: Path) -> None:
    shutil.copytree(good, directory)
    (directory / "config.json").write_text(json.dumps({"model_type": "no-such-thing"}))


def _other_shape(directory: Path, good: Path) -> None:
    shutil.copytree(good, directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))


def _broken_config(directory: Path, good: Path) -> None:
    shutil.copytree(good, directory)
    (directory / "config.json").write_text("{not json")


@pytest.mark.parametrize(
    "spoil", [_no_directory, _no_files, _no_weights, _cut_weights, _unknown_architecture, _other_shape, _broken_config]
)
def test_an_unusable_model_is_a_config_error(tmp_path: Path, tiny_encoder_dir: Path, spoil) -> None:
    directory = tmp_path / "model"
    spoil(directory, tiny_encoder_dir)
    with pytest.raises(ConfigError, match="no usable text encoder") as caught:
        TextEncoder(EncoderConfig(model=str(directory)))
    assert caught.value.where == str(directory)
    assert "encoder.model" in caught.value.mend
