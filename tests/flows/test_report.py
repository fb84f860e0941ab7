"""``tapstate report``: a page on any version or pair, and the same figures as JSON."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from schemas.records import IngestRecord, VersionRecord
from store.home import Home
from store.versions import promote

Put = Callable[..., IngestRecord]
Night = Callable[..., VersionRecord | None]


def rows(night: int) -> list[dict[str, object]]:
    return [{"user_id": f"person-{n:04}", "ts": 1_700_000_000 + night * 86_400, "text": f"words {n} {night}"} for n in range(5)]


def embedded(page: str) -> object:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', Path(page).read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_any_version_or_pair(home: Home, put: Put, night: Night, tapstate: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    for number in (1, 2, 3):
        put(home, rows(number), name=f"{number}.jsonl")
        assert night(home)
    promote(home, 2, expected=None, reason="good")
    code, out, _ = tapstate("--home", home.uri, "report")
    assert (code, out) == (0, f"{home.uri}/reports/2.html\n")
    code, out, err = tapstate("--home", home.uri, "report", "production", "-o", "json")
    assert (code, json.loads(out)) == (0, embedded(f"{home.uri}/reports/2.html"))
    assert f"{home.uri}/reports/2.html" in err
    code, out, _ = tapstate("--home", home.uri, "report", "1", "3", "--output", "json")
    told = json.loads(out)
    assert (code, told["version"]["number"], [d["base"] for d in told["drift"]]) == (0, 3, [1])
    assert told == embedded(f"{home.uri}/reports/1-3.html")
    elsewhere = tmp_path / "page.html"
    assert tapstate("--home", home.uri, "report", "3", "--to", str(elsewhere))[:2] == (0, f"{elsewhere}\n")
    assert elsewhere.is_file()
    assert not (Path(home.uri) / "reports" / "3.html").exists()
    code, out, err = tapstate("--home", home.uri, "report", "9", "-o", "json")
    assert (code, out) == (1, "")
    assert "tapstate versions" in err
