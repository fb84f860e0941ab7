"""A line's encoder is named without being loaded, and never taken for another."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from encoders.text import TextEncoder
from pipelines.encoder import KnownEncoder
from schemas.config import EncoderConfig
from schemas.errors import CompatibilityError
from schemas.records import VersionRecord
from store.home import Home

QUIET = """
import sys
from pipelines.refresh import Refresh
from pipelines.encoder import KnownEncoder
from store.home import Home
home = Home(sys.argv[1])
refresh = Refresh(home)
folder, plan = refresh.plan()
done = refresh.encode(plan)
refresh.update(folder, plan)
assert done.texts == 0, done
assert "transformers" not in sys.modules
"""


def test_named_once_then_known(home: Home, tiny_encoder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_encoder, model)
    config = EncoderConfig(model=str(model), max_tokens=32)
    first, here = KnownEncoder(home, config), TextEncoder(config)
    assert (first.fingerprint, first.dim) == (here.fingerprint, here.dim)
    again = KnownEncoder(home, config)
    assert (again.fingerprint, again.dim) == (here.fingerprint, here.dim)
    assert "text" not in vars(again), "it was loaded"
    assert KnownEncoder(home, config.model_copy(update={"max_tokens": 16})).fingerprint != here.fingerprint

    weights = {name: value + np.float32(0.01) for name, value in load_file(model / "model.safetensors").items()}
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(CompatibilityError, match="replaced meanwhile"):
        again.encode(["x"])
    swapped = KnownEncoder(home, config)
    assert swapped.fingerprint == TextEncoder(config).fingerprint != here.fingerprint


def test_files_below_and_damaged_records(home: Home, tiny_encoder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_encoder, model)
    (model / "more").mkdir()
    (model / "more" / "weights").write_text("1")
    config = EncoderConfig(model=str(model), max_tokens=32)
    name = KnownEncoder(home, config).fingerprint
    (record,) = home.objects.names("encoders")
    home.objects.put(f"encoders/{record}", b"{}")
    assert KnownEncoder(home, config).fingerprint == name
    (model / "more" / "weights").write_text("2")
    assert KnownEncoder(home, config).fingerprint == name
    assert len(home.objects.names("encoders")) == 2, "other files are looked at anew"


def test_a_night_without_new_texts_loads_no_encoder(home: Home, put: Callable[..., object], night: Callable[..., VersionRecord]) -> None:
    rows = [{"user_id": f"u{i}", "ts": 1_700_000_000 + i, "text": "the same", "target": "x"} for i in range(5)]
    put(home, rows)
    assert night(home)
    put(home, [{**row, "ts": 1_700_100_000} for row in rows])
    subprocess.run([sys.executable, "-c", QUIET, home.uri], check=True)
