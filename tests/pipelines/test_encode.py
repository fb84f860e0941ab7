"""A text is encoded once per encoder, ever; another encoder is no silent change."""

from collections.abc import Callable
from pathlib import Path

import pytest

from encoders.text import TextEncoder
from schemas.errors import CompatibilityError
from schemas.records import IngestRecord, VersionRecord
from store.home import Home
from store.lines import Lines

Night = Callable[..., VersionRecord | None]
Put = Callable[..., IngestRecord]
ROW = {"user_id": "u", "ts": 1_700_000_000, "text": "x"}


def test_each_text_is_encoded_once(home: Home, put: Put, night: Night) -> None:
    def encoded(*texts: str, target: str | None = None) -> tuple[int, int]:
        put(home, [{"user_id": "u", "ts": 1_700_000_000 + i, "text": t, "target": target} for i, t in enumerate(texts)])
        version = night(home)
        assert version
        return version.texts_encoded, version.cache_hits

    assert encoded("a", "b", "a") == (2, 0)
    assert encoded("b", "c", target="a") == (1, 2)
    assert encoded("c", "a", target="b") == (0, 3)
    rebuilt = night(home, full=True)
    assert rebuilt
    assert (rebuilt.texts_encoded, rebuilt.cache_hits) == (0, 3)


def test_another_encoder_is_refused(home: Home, put: Put, night: Night) -> None:
    put(home, [ROW])
    version = night(home)
    assert version
    Lines(home).open(version.aggregator, home.config.encoder, reason="test")
    config = Path(home.uri) / "config.toml"
    config.write_text(config.read_text().replace("max_tokens = 32", "max_tokens = 16"))
    put(home, [{**ROW, "text": "y"}])
    second = night(Home(home.uri))
    assert second, "a line has its own encoder, whatever the configuration says by now"
    assert second.encoder == version.encoder
    Lines(home).open(version.aggregator, Home(home.uri).config.encoder, reason="test")
    put(home, [{**ROW, "text": "z"}])
    with pytest.raises(CompatibilityError, match="tapstate train") as caught:
        night(Home(home.uri))
    assert version.encoder[:12] in str(caught.value)
    assert TextEncoder(Home(home.uri).config.encoder).fingerprint[:12] in str(caught.value)
    assert home.versions.last() == 2
