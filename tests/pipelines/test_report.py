"""Reports: the page shows the figures of the JSON and nothing else, whatever the home holds; an erasure leaves no page."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipelines.report as module
from encoders.checkpoint import pack_aggregator
from encoders.registry import new_aggregator
from encoders.text import TextEncoder
from pipelines.erase import Erasure
from pipelines.figures import _components, _spread, figures
from pipelines.plots import brief
from pipelines.report import render, write_report
from schemas.config import MaintainConfig, settings
from schemas.errors import InputError, NotFoundError
from schemas.records import IngestRecord, RetiredRecord, VersionRecord
from schemas.report import Report
from store.home import Home, provenance
from store.lines import Lines
from store.maintenance import maintain
from store.models import Models
from store.proof import prove
from store.pseudonyms import Pseudonyms
from store.versions import promote, rollback

Put = Callable[..., IngestRecord]
Night = Callable[..., VersionRecord | None]
FIGURE = re.compile(r"−?-?[\d,]+(\.\d+)?(e[+-]\d+)?")


class Page(HTMLParser):
    """What a page holds: its figures by place, its scripts, and every attribute that could fetch something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.figures: list[tuple[str, str | None, str]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self._open: tuple[str, str | None] | None = None
        self._script: dict[str, str | None] | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.fetched += [
            v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "data", "action") and not (v or "").startswith("#")
        ]
        self.handlers += [k for k, _ in attrs if k.startswith("on")]
        if tag == "data":
            self._open = (given["data-at"] or "", given.get("data-key"))
        if tag == "script":
            self._script = given

    def handle_data(self, data: str) -> None:
        if self._open:
            self.figures.append((*self._open, data))
            self._open = None
        if self._script is not None:
            self.scripts.append((self._script, data))
            self._script = None


def number(text: str) -> float | None:
    """What a figure on the page says, read as a person would."""
    found = FIGURE.search(text)
    if not found:
        return None
    value = float(found[0].replace(",", "").replace("−", "-"))
    return value / 100 if "%" in text else value * 60 if "min" in text else value


def check(html: str, report: Report) -> Page:
    """The page's figures are those of the JSON, it says nothing to any network, and runs nothing."""
    page, data = Page(html), json.loads(report.model_dump_json())
    ((about, embedded),) = page.scripts
    assert about == {"type": "application/json", "id": "figures"}
    assert json.loads(embedded) == data
    assert page.fetched == page.handlers == []
    assert not re.search(r"https?://|//[a-z]|url\((?!#)|@import", html)
    assert "default-src 'none'" in html
    assert len(html) < 2_000_000
    assert len(page.figures) > 15
    for at, key, text in page.figures:
        value: Any = data
        for step in at.split("/"):
            value = value[int(step)] if isinstance(value, list) else value[step]
        value = value if key is None else value[key]
        if value is None:
            assert text == "–"
        elif at.endswith(("created_at", "as_of")):
            assert text == value[:10] + " " + value[11:16] + " UTC"
        elif isinstance(value, str):
            assert text in ("∞", "−∞", "not a number")
        elif isinstance(value, int):
            assert number(text) == value, at
        else:
            step = 3.1 if "min" in text else 0.051
            assert number(text) == pytest.approx(value, rel=6e-4, abs=step if text.endswith((" s", " min")) else 6e-4), at
    return page


def rows(users: int, *, first: int = 0, ts: int = 1_700_000_000) -> list[dict[str, Any]]:
    return [
        {"user_id": f"person-{u:04}", "event_id": f"{ts}-{i}", "ts": ts + i * 3_000, "known_at": ts + i * 9_000, "text": f"w {u} {i}"}
        for u in range(first, users)
        for i in range(1 + u % 4)
    ]


@pytest.mark.parametrize("users", [1, 2, 10])
def test_a_first_version_and_the_next(home: Home, put: Put, night: Night, users: int) -> None:
    put(home, rows(users))
    first = night(home)
    assert first
    path, report = write_report(home, first)
    assert path == f"{home.uri}/reports/1.html"
    check(Path(path).read_text(), report)
    assert (report.drift, report.changes, report.version.parent) == ((), (), None)
    assert report.sample.users == users
    put(home, [*rows(users + 1, first=users, ts=1_700_500_000), {"user_id": "", "ts": 1, "text": "x"}, rows(1)[0]], name="b.jsonl")
    second = night(home)
    assert second
    path, report = write_report(home, second)
    html = Path(path).read_text()
    check(html, report)
    assert "person-" not in html
    intake = report.intake
    new = 1 + users % 4
    assert (intake.read, intake.accepted, intake.duplicate, intake.rejected, intake.adds_up) == (new + 2, new, 1, 1, True)
    assert intake.reasons == {"user_id is missing": 1}
    assert sum(intake.lateness.values()) == new
    assert intake.lateness["within an hour"] == min(new, 1)
    (drift,) = report.drift
    assert drift.users
    assert drift.users.model_dump() == {"before": users, "appeared": 1, "vanished": 0, "after": users + 1, "adds_up": True}
    assert [g.user for g in drift.growers] == [Pseudonyms(home).name(f"person-{users:04}")]
    assert (drift.growers[0].events_before, drift.growers[0].events_after) == (0, new)
    assert [n.events_new for n in report.nights] == [first.events_new, new]


def test_movers_failed_checks_and_what_production_named(home: Home, put: Put, night: Night) -> None:
    put(home, rows(10))
    assert night(home)
    promote(home, 1, expected=None, reason="first")
    put(home, rows(3, ts=1_701_000_000), name="b.jsonl")
    second = night(home)
    assert second
    promote(home, 2, expected=1, reason="second")
    report = figures(home, second)
    (drift,) = report.drift
    assert (drift.base, drift.roles, drift.rewritten, drift.moved) == (1, ("parent", "production"), 3, 3)
    assert drift.shift
    assert {m.user for m in drift.movers} == {Pseudonyms(home).name(f"person-{u:04}") for u in range(3)}
    assert drift.movers[0].shift == pytest.approx(drift.shift.quantiles["max"], abs=1e-6)
    rollback(home, reason="odd")
    put(home, [{**row, "op": "delete"} for row in rows(6)], name="c.jsonl")
    third = night(home)
    assert third
    assert [c.name for c in third.checks if not c.passed] == ["coverage"]
    # Its parent is 2, production was put back to 1; what production names later changes nothing.
    report = figures(home, third)
    assert [(d.base, d.roles) for d in report.drift] == [(2, ("parent",)), (1, ("production",))]
    html = render(report)
    check(html, report)
    assert "checks failed: coverage" in html
    assert report.drift[0].users
    assert (report.drift[0].users.vanished, report.drift[0].users.adds_up) == (3, True)
    promote(home, 3, expected=1, reason="as it should be")
    assert figures(home, third).drift == report.drift
    pair = figures(home, third, home.versions.get(1))
    assert [(d.base, d.roles) for d in pair.drift] == [(1, ("asked for",))]
    assert pair.intake.read == len(rows(3)) + len(rows(6))


def test_what_a_page_is_told_stays_text(home: Home, put: Put, night: Night) -> None:
    """Configuration, reasons, aliases: nothing becomes markup, nor ends the block of JSON."""
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>'\"&"
    put(home, rows(5))
    night(home)
    home.__dict__["config"] = home.config.model_copy(update={"llm": home.config.llm.model_copy(update={"prompt": evil + "{text}"})})
    put(home, rows(5, ts=1_701_000_000), name="b.jsonl")
    version = night(home)
    assert version
    report = figures(home, version)
    assert [(c.what, c.before, c.after) for c in report.changes] == [("config: llm.prompt", "default", evil + "{text}")]
    told = report.model_copy(
        update={
            "intake": report.intake.model_copy(update={"reasons": {evil: 3}}),
            "version": report.version.model_copy(update={"aliases": (evil,)}),
            "notes": (evil,),
        }
    )
    html = render(told)
    page = check(html, told)
    assert ("intake/reasons", evil, "3") in page.figures
    assert html.count("<script") == 1


def test_what_is_not_finite_is_shown(home: Home, put: Put, night: Night) -> None:
    put(home, rows(5))
    version = night(home)
    assert version
    odd = version.checks[0].model_copy(update={"value": float("inf"), "passed": False})
    nan = version.checks[0].model_copy(update={"value": float("nan"), "passed": False})
    odd_version = version.model_copy(update={"checks": (odd, nan)})
    assert VersionRecord.model_validate_json(odd_version.model_dump_json()).checks[0] == odd
    report = figures(home, odd_version)
    page = check(render(report), report)
    assert [text for at, _, text in page.figures if at.endswith("/value")] == ["∞", "not a number"]


def test_another_line(home: Home, put: Put, night: Night) -> None:
    """Vectors of two lines are not compared, only their neighbours; the encoder's change is told."""
    put(home, rows(10))
    assert night(home)
    promote(home, 1, expected=None, reason="first")
    config = home.config.encoder.model_copy(update={"max_tokens": 16})
    encoder = TextEncoder(config)
    name, files = pack_aggregator(new_aggregator(home.config, encoder.dim), encoder.fingerprint, trained=True)
    Models(home).save(name, files)
    Lines(home).open(name, config, reason="shorter")
    version = night(home)
    assert version
    report = figures(home, version)
    check(render(report), report)
    (drift,) = report.drift
    assert (drift.roles, drift.one_line, drift.users, drift.shift, drift.movers, drift.panel) == (
        ("production",),
        False,
        None,
        None,
        (),
        10,
    )
    assert {"aggregator", "encoder", "trained"} <= {c.what for c in report.changes}
    assert ("encoder: max_tokens", 32, 16) in [(c.what, c.before, c.after) for c in report.changes]
    # All of its events are its own.
    assert report.intake.first == 1


def test_an_erasure_leaves_no_page(home: Home, put: Put, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home, rows(8))
    for ts in (1_701_000_000, 1_702_000_000):
        version = night(home)
        assert version
        write_report(home, version)
        put(home, rows(8, ts=ts), name=f"{ts}.jsonl")
    write_report(home, version, home.versions.get(1))
    ours = Pseudonyms(home).name("person-0007")
    assert ours in "".join(p.read_text() for p in (Path(home.uri) / "reports").iterdir())
    with pytest.raises(NotFoundError):
        Erasure(home, ["nobody"]).erase("asked")
    assert len(home.objects.names("reports")) == 3
    needles = Erasure(home, ["person-0007"]).subjects.needles([])
    assert {f.where: f.rows for f in Erasure(home, ["person-0007"]).survey()}["reports"] == 3
    receipt = Erasure(home, ["person-0007"]).erase("asked")
    assert home.objects.names("reports") == []
    assert receipt.proof.hits == ()
    # One that is being made while somebody is erased is made again, without them.
    made = []

    def slow(report: Report) -> str:
        made.append(report.version.users)
        if len(made) == 1:
            Erasure(home, ["person-0006"]).erase("asked")
        return render(report)

    monkeypatch.setattr(module, "render", slow)
    path, report = write_report(home, version)
    assert made == [7, 6]
    html = Path(path).read_text()
    check(html, report)
    assert ours not in html
    assert Pseudonyms(home).name("person-0006") not in html
    assert not prove(home, needles).hits
    assert report.version.users == 6


def test_maintenance_takes_pages_of_retired_versions(home: Home, put: Put, night: Night) -> None:
    home.__dict__["config"] = home.config.model_copy(update={"maintain": MaintainConfig(keep_versions=1, keep_days=0)})
    versions = []
    for number in range(3):
        put(home, rows(4, ts=1_700_000_000 + number * 86_400), name=f"{number}.jsonl")
        version = night(home)
        assert version
        versions.append(version)
        write_report(home, version, versions[0] if number else None)
        write_report(home, version)
    promote(home, 2, expected=None, reason="kept")
    assert home.objects.names("reports") == ["1-2.html", "1-3.html", "1.html", "2.html", "3.html"]
    done = {action.what for action, _ in maintain(home)}
    assert {"reports/1.html", "reports/1-2.html", "reports/1-3.html", "version 1"} <= done
    assert home.objects.names("reports") == ["2.html", "3.html"]
    report = figures(home, versions[1])
    assert report.drift == ()
    assert "version 1 was retired" in report.notes[0]
    assert report.notes[0] in render(report)


def test_records_of_before_say_no_configuration(home: Home, put: Put, night: Night) -> None:
    put(home, rows(4))
    first = night(home)
    assert first
    assert first.settings == settings(home.config)
    assert first.settings["encoder.max_tokens"] == 32
    assert not [key for key in first.settings if key.startswith("engine")]
    put(home, rows(4, ts=1_701_000_000), name="b.jsonl")
    second = night(home)
    assert second
    report = figures(home, second.model_copy(update={"settings": None}))
    assert report.changes == ()
    assert "configuration" in report.notes[0]


def test_a_file_elsewhere(home: Home, put: Put, night: Night, tmp_path: Path) -> None:
    put(home, rows(3))
    version = night(home)
    assert version
    path, report = write_report(home, version, to=tmp_path / "page.html")
    check(Path(path).read_text(), report)
    assert home.objects.names("reports") == []
    with pytest.raises(InputError):
        write_report(home, version, to=tmp_path / "no" / "page.html")


@pytest.mark.s3
def test_a_home_far_away(s3: str, new_home: Callable[..., Home], put: Put, night: Night) -> None:
    home = new_home(f"{s3}/reported")
    put(home, rows(3))
    version = night(home)
    assert version
    path, report = write_report(home, version)
    assert path == f"{s3}/reported/reports/1.html"
    check((home.objects.get("reports/1.html") or b"").decode(), report)
    Erasure(home, ["person-0001"]).erase("asked")
    assert home.objects.names("reports") == []


def test_a_retired_version_has_no_pair(home: Home, put: Put, night: Night) -> None:
    put(home, rows(3))
    night(home)
    home.retired.append(1, RetiredRecord.model_validate({**provenance(), "number": 1, "reason": "old"}))
    put(home, rows(3, ts=1_701_000_000), name="b.jsonl")
    version = night(home)
    assert version
    assert figures(home, version).drift == ()


@given(st.lists(st.floats(width=32), max_size=60))
def test_a_spread_loses_nobody(values: list[float]) -> None:
    spread = _spread(np.array(values, np.float32))
    assert sum(spread.histogram.counts) + spread.histogram.below + spread.histogram.not_finite == spread.users == len(values)
    finite = [v for v in values if np.isfinite(v)]
    assert spread.quantiles.get("max") == (max(finite) if finite else None)
    assert list(spread.histogram.edges) == sorted(set(spread.histogram.edges))


def test_components_are_those_of_the_data() -> None:
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((200, 2)) * [5, 2]
    turned = plane @ np.linalg.qr(rng.standard_normal((16, 2)))[0].T
    places, explained = _components(turned + 3)
    assert sum(explained) == pytest.approx(1)
    distances = [np.linalg.norm(x[:, None] - x[None], axis=2) for x in (places, plane)]
    np.testing.assert_allclose(*distances, atol=1e-9)
    assert explained[0] > explained[1]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.6213, "0.621"), (38.14, "38.1"), (1_500, "1,500"), (2_499, "2,499"), (20_200_000, "20.2M"), (999_999, "1M"), (0, "0")],
)
def test_figures_above_bars_are_brief_and_true(value: float, text: str) -> None:
    assert brief(value) == text
