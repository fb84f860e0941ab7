"""Every page of the console in a headless Chromium: seconds, screenshots, and whether its figures are those of ``--output json``.

``python -m benchmarks.console HOME --user ID [--screens DIR] --output json``: ``pages`` (seconds from the address to the last figure),
``compared`` (figures on pages that a command tells too), ``differing`` (what differs, with both values), ``peak_bytes`` of the console
before and after it looked for a user's nearest, and ``similar_peak_bytes`` of the command that does the same. Needs chromium and
chromedriver on the PATH (Debian: ``apt install chromium-driver``). Nothing in the home changes but the report's page, which is made
again.
"""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from benchmarks.memory import peak

PATIENCE, WIDTH = 600, 1400
#: Chromium's names on the PATH.
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: All tables of a page: heads and cells as a reader sees them.
TABLES = """return [...document.querySelectorAll('table')].map(t => [...t.querySelectorAll('tr')].map(
    r => [...r.cells].map(c => c.innerText.trim())))"""
Row = Mapping[str, str]


class Pages:
    """A console of ``home`` and a browser."""

    def __init__(self, home: str, screens: Path | None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.screens, self.seconds = screens, dict[str, float]()
        port = self.address.rpartition(":")[2]
        self.server = subprocess.Popen(cli(home, "ui", "--port", port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(self.address, timeout=30).close()
                break
            except (urllib.error.URLError, ConnectionError):
                if self.server.poll() is not None or time.monotonic() > deadline:
                    sys.exit("the console does not start")
                time.sleep(0.1)
        self.driver = chromium(WIDTH)

    def open(self, name: str, path: str, until: str) -> list[list[Row]]:
        """The tables of a page, once it says ``until`` and loads no more."""
        return self._timed(name, lambda: self.driver.get(self.address + path), until)

    def press(self, name: str, button: str, until: str) -> list[list[Row]]:
        """The tables of the page after a button."""
        found = self.driver.find_element(By.XPATH, f"//button[normalize-space(.)='{button}']")
        return self._timed(name, found.click, until)

    def peak(self) -> int:
        """Most memory that the console held so far, in bytes."""
        return peak(self.server.pid)

    def close(self) -> None:
        """End both."""
        self.driver.quit()
        self.server.terminate()
        self.server.wait(30)

    def _timed(self, name: str, act: Callable[[], None], until: str) -> list[list[Row]]:
        started = time.perf_counter()
        act()

        def done(_: object) -> bool:
            body = self.driver.find_element(By.TAG_NAME, "body")
            return until in body.text and not self.driver.find_elements(By.CSS_SELECTOR, ".q-spinner")

        WebDriverWait(self.driver, PATIENCE, 0.02, ignored_exceptions=[Exception]).until(done)
        self.seconds[name] = round(time.perf_counter() - started, 2)
        if self.screens:
            height = self.driver.execute_script("return document.documentElement.scrollHeight")
            self.driver.set_window_size(WIDTH, max(1000, min(int(height) + 100, 8000)))
            time.sleep(1)
            self.driver.save_screenshot(str(self.screens / f"{name}.png"))
            self.driver.set_window_size(WIDTH, 1000)
        tables = self.driver.execute_script(TABLES)
        return [[dict(zip(rows[0], row, strict=False)) for row in rows[1:]] for rows in tables if rows]


class Comparison:
    """Figures on pages beside those of commands."""

    def __init__(self) -> None:
        self.compared, self.differing = 0, list[dict[str, Any]]()

    def same(self, where: str, seen: str | None, told: Any) -> None:
        """One figure; floats agree to the digits that a page shows."""
        self.compared += 1
        if seen is None or not _agree(seen, told):
            self.differing.append({"where": where, "page": seen, "json": told})

    def rows(self, page: str, seen: list[Row], told: list[dict[str, Any]], key: str, names: Mapping[str, str]) -> None:
        """Rows of a table, found by ``key``; ``names`` says what a page's column is called in JSON."""
        by_key = {row[key].replace(",", ""): row for row in seen}
        for row in told:
            found = by_key.get(str(row[names[key]]))
            for column, name in names.items():
                self.same(f"{page}: {row[names[key]]}: {column}", None if found is None else found[column], row[name])


def _agree(seen: str, told: Any) -> bool:
    if told is None:
        return seen == "–"
    if isinstance(told, bool) or not isinstance(told, int | float):
        return seen == str(told)
    try:
        return math.isclose(float(seen.replace(",", "")), told, rel_tol=0.0 if isinstance(told, int) else 6e-4, abs_tol=1e-9)
    except ValueError:
        return False


def chromium(width: int) -> webdriver.Chrome:
    """A headless Chromium of the PATH that keeps what its console says."""
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)), BROWSERS[0])
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", f"--window-size={width},1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def cli(home: str, *words: str) -> list[str]:
    """A command line of tapstate's."""
    return [sys.executable, "-m", "flows.cli", "--home", home, *words]


def told(home: str, *words: str) -> Any:
    """What a command says as JSON."""
    done = subprocess.run([*cli(home, *words), "--output", "json"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def similar(home: str, user: str, version: int) -> tuple[list[dict[str, Any]], int]:
    """``tapstate similar`` and the memory it took."""
    command = [*cli(home, "similar", user, "--version", str(version)), "--output", "json"]
    process, most = subprocess.Popen(command, stdout=subprocess.PIPE, text=True), 0
    while process.poll() is None:
        most = max(most, peak(process.pid))
        time.sleep(0.02)
    assert process.stdout
    return json.loads(process.stdout.read()), most


def run(
    home: Annotated[str, typer.Argument(help="A home with a version in production.")],
    user: Annotated[str, typer.Option(help="A user to look at.")],
    screens: Annotated[Path | None, typer.Option(help="Directory for screenshots.")] = None,
    output: Annotated[str, typer.Option(help="json.")] = "json",
) -> None:
    """Print one JSON object."""
    if screens:
        screens.mkdir(parents=True, exist_ok=True)
    versions = told(home, "versions")
    number = next(v["version"] for v in versions if "production" in v["aliases"])
    report, past = told(home, "report", str(number)), told(home, "history", user)
    figures, pages = Comparison(), Pages(home, screens)
    try:
        tables = pages.open("versions", "/", "newest first; retired")
        listed = next(t for t in tables if "personalizer" in t[0])
        figures.rows("versions", listed, versions[-len(listed) :], "version", {"version": "version", "users": "users", "events": "events"})
        tables = pages.open("version", f"/version/{number}", "Stages")
        shown = {row["figure"]: row["value"] for row in next(t for t in tables if "figure" in t[0])}
        work, about = report["work"], report["version"]
        for name, value in {
            "users": about["users"],
            "events": about["events"],
            "parent": about["parent"],
            "users changed": work["users_changed"],
            "events new": work["events_new"],
            "texts encoded": work["texts_encoded"],
            "texts found in the cache": work["cache_hits"],
            "seconds": work["seconds"],
        }.items():
            figures.same(f"version: {name}", shown.get(name), value)
        checks = next(t for t in tables if "check" in t[0])
        figures.rows("version", checks, report["checks"], "check", {"check": "name", "value": "value", "limit": "limit"})
        pages.open("report", f"/report/{number}", str(number))
        tables = pages.open("user", f"/user?id={user}", "Nearest users")
        history = next(t for t in tables if "shift" in t[0])
        names = {"version": "version", "events": "events", "shift": "shift", "norm": "norm"}
        figures.rows("user", history, past, "version", names)
        before = pages.peak()
        tables = pages.press("nearest", "Find them", "cosine")
        after = pages.peak()
        near, similar_peak = similar(home, user, number)
        nearest = next(t for t in tables if "cosine" in t[0])
        figures.rows("nearest", nearest, near, "user", {"user": "user_id", "cosine": "cosine", "events": "event_count"})
        pages.open("nights", "/nights", "Past nights")
        tables = pages.open("rejects", "/rejects", "read = accepted")
        ingests = [row for t in tables if t and "accepted" in t[0] for row in t]
        intake = report["intake"]
        mine = [r for r in ingests if intake["first"] <= int(r["ingest"].replace(",", "")) <= intake["last"]]
        for name in ("read", "accepted", "duplicate", "corrected", "rejected"):
            figures.same(f"rejects: {name}", str(sum(int(r[name].replace(",", "")) for r in mine)), intake[name])
        tables = pages.open("bundles", "/bundles", "newest version first")
        pulls = [row for t in tables if t and "fetched" in t[0] for row in t]
        figures.same("bundles: pulls", str(len(pulls)), min(len(told(home, "bundle", "pulls", "--top", "100")), 100))
        pages.open("erasures", "/erasures", "newest first")
        result = {
            "pages": pages.seconds,
            "compared": figures.compared,
            "differing": figures.differing,
            "peak_bytes": {"before": before, "after": after},
            "similar_peak_bytes": similar_peak,
            "users": about["users"],
            "cores": os.cpu_count(),
        }
    finally:
        pages.close()
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(run)
