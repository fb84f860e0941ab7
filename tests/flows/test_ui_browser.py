"""The console in a real browser: every page and button, and what must be refused."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from benchmarks.console import BROWSERS, chromium
from store.home import Home
from store.lease import lease
from store.versions import current

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(map(shutil.which, BROWSERS)) or not shutil.which("chromedriver"),
        reason="no chromium with chromedriver on PATH (Debian: apt install chromium-driver)",
    ),
]
Spawn = Callable[..., subprocess.Popen[str]]
PATIENCE = 120


class Browser:
    """A headless chromium and a console."""

    def __init__(self, spawn: Spawn, home: Home, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        server = spawn("-m", "flows.cli", "--home", home.uri, "ui", "--port", str(self.port), *options, TAPSTATE_TOKEN="s3cret")
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"{self.address}/login", timeout=30).close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None, server.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.1)
        self.driver = chromium(1400)

    def open(self, path: str) -> None:
        self.driver.get(self.address + path)

    def see(self, text: str) -> None:
        """Waits until the page says it."""
        self._until(lambda: text in self.driver.find_element(By.TAG_NAME, "body").text, text)

    def find(self, selector: str) -> WebElement:
        """Waits for something that is there to be seen."""
        found: list[WebElement] = []

        def there() -> bool:
            found[:] = [e for e in self.driver.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed()]
            return bool(found)

        self._until(there, selector)
        return found[0]

    def press(self, text: str, place: str = "") -> None:
        """Clicks the button, link or option that says it."""

        def click() -> bool:
            kinds = ("button", "a", "div[contains(@class,'q-item')]", "label[contains(@class,'q-select')]")
            path = " | ".join(f"//{place}{kind}[normalize-space(.)='{text}' or .//*[normalize-space(text())='{text}']]" for kind in kinds)
            shown = [e for e in self.driver.find_elements(By.XPATH, path) if e.is_displayed()]
            if shown:
                shown[-1].click()
            return bool(shown)

        self._until(click, f"button {text}")

    def force(self, button: WebElement) -> None:
        """Tells the server that a button was clicked, whatever the page thinks of it; waits a while for what comes of it."""
        told = """const [button, done] = arguments, id = Number(button.id.slice(1));
            const listener_id = mounted_app.elements[id].events[0].listener_id;
            window.socket.emit('event', {id, client_id: window.clientId, listener_id, args: ['{}']});
            setTimeout(done, 2000);"""
        self.driver.execute_async_script(told, button)

    def sign_in(self) -> None:
        self.open("/")
        self.find("#token").send_keys("s3cret")
        self.press("Sign in")
        self.see("Aliases")

    def clean(self) -> None:
        """Nothing was fetched from elsewhere, nothing ran that was data, and the browser complains of nothing."""
        urls = self.driver.execute_script("return performance.getEntriesByType('resource').map(r => r.name)")
        assert [url for url in urls if not url.startswith((self.address, "data:", "blob:"))] == []
        assert "owned" not in self.driver.title
        severe = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        # What a report would run is blocked, by its sandbox; Chromium says so.
        assert [message for message in severe if "sandbox" not in message] == []

    def _until(self, done: Callable[[], bool], what: str) -> None:
        # A page that is just being replaced: look again.
        wait = WebDriverWait(self.driver, PATIENCE, 0.1, ignored_exceptions=[WebDriverException])
        wait.until(lambda _: done(), f"{what} is not to be seen")


@pytest.fixture
def browse(spawn: Spawn, shown_home: Home) -> Iterator[Callable[..., Browser]]:
    opened: list[Browser] = []

    def run(*options: str) -> Browser:
        opened.append(Browser(spawn, shown_home, *options))
        return opened[-1]

    yield run
    for browser in opened:
        browser.driver.quit()


def test_every_page_and_button(browse: Callable[..., Browser], shown_home: Home, script: str) -> None:
    b = browse("--write")
    b.sign_in()
    b.see("may promote")
    b.press("moves")
    b.see("first")
    # What the other test forces in vain works here.
    b.force(b.find("button.q-btn"))
    b.see("From version 2 to the one before.")
    b.press("Cancel")
    # Promote: first thought better of, then without a reason, then done.
    b.press("3")
    b.see("Promote version 3")
    b.press("Promote version 3")
    b.press("Cancel")
    b.press("Promote version 3")
    b.see("production: 2 → 3")
    b.press("Promote")
    b.see("give a reason")
    assert current(shown_home, "production") == 2
    b.find("input[aria-label=reason]").send_keys("better answers")
    b.press("Promote")
    b._until(lambda: current(shown_home, "production") == 3, "promotion")
    b.press("Versions")
    b.see("better answers")
    b.press("Roll back")
    b.find("input[aria-label=reason]").send_keys("odd answers")
    b.press("Roll back", "div[contains(@class,'q-dialog')]//")
    b.see("rolled back: nights leave it here")
    assert current(shown_home, "production") == 2
    b.clean()

    b.open("/version/2")
    b.see("norm_ratio")
    frame = b.find("iframe")
    b.driver.switch_to.frame(frame)
    b.see("report of two")
    b.driver.switch_to.default_content()
    b.clean()

    b.press("Users")
    b.find("input[aria-label^='user id']").send_keys(script)
    b.press("Show")
    b.see("Events behind the state at version 2")
    assert script in b.driver.find_element(By.TAG_NAME, "body").text
    b.see("differ from the stored ones by")
    assert len(b.driver.find_elements(By.CSS_SELECTOR, ".nicegui-echart")) == 3
    assert b.find(".nicegui-echart canvas")
    b.find(".q-select").click()
    b.press("newest events")
    newest = "//th[text()='weight']/ancestor::table/tbody/tr[1]/td"
    b._until(lambda: [cell.text for cell in b.driver.find_elements(By.XPATH, newest)][:2] == ["–", "2023-11-27 22:13"], "newest event")
    b.press("Find them")
    b.press("alice")
    b.see("Events behind the state at version 2")
    b.clean()

    with lease(shown_home, "refresh-x", "a refresh of line x"):
        b.press("Nights")
        b.see("a refresh of line x")
    b.press("Rejects")
    b.press("60")
    b.see("1 to 50 of 60")
    b.press("next")
    b.see("51 to 60 of 60")
    b.press("before")
    b.see("1 to 50 of 60")
    b.clean()
    b.press("Bundles")
    b.see("CURRENT")
    b.see("No pull is recorded.")
    b.press("Erasures")
    b.see("they asked")
    b.clean()


def test_what_is_refused(browse: Callable[..., Browser], shown_home: Home, script: str) -> None:
    b = browse()
    # No token: no page, no file, no socket.
    b.open("/version/2")
    assert b.driver.current_url == f"{b.address}/login"
    for path in ("/", "/report/2", "/_nicegui_ws/socket.io/?EIO=4&transport=polling", "/_nicegui/x/static/nicegui.css"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(b.address + path, timeout=30)
    b.find("#token").send_keys("wrong")
    b.press("Sign in")
    b.see("That is not the token.")
    b.sign_in()
    # The refusals so far stand in the browser's log.
    b.driver.get_log("browser")
    # Read-only: the button is off, and forcing it in the page moves nothing.
    b.see("read-only")
    button = b.find("button.q-btn")
    assert button.get_attribute("disabled")
    script_ = "const b = arguments[0]; b.disabled = false; b.classList.remove('disabled'); b.click();"
    b.driver.execute_script(script_, button)
    b.force(button)
    assert not b.driver.find_elements(By.CSS_SELECTOR, ".q-dialog")
    assert current(shown_home, "production") == 2
    assert len(shown_home.aliases("production").all()) == 2
    # Script in an id, in a reason, in a text and in a reject is text.
    b.open("/user?id=" + urllib.request.quote(script))
    b.see("Events behind the state")
    assert not b.driver.find_elements(By.CSS_SELECTOR, "img")
    b.open("/rejects?ingest=3")
    b.see("unreadable ts")
    b.open("/user?id=%3Cimg+src%3Dx+onerror%3D%22document.title%3D'owned'%22%3E")
    b.see("no version holds a user")
    b.clean()
    assert "owned" not in b.driver.title
    # Reports run nothing, even opened alone.
    b.open("/report/2")
    b.see("report of two")
    assert "owned" not in b.driver.title


def test_figures_on_pages_are_those_of_the_commands(spawn: Spawn, shown_home: Home) -> None:
    process = spawn("-m", "benchmarks.console", shown_home.uri, "--user", "alice")
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    told = json.loads(out)
    assert told["differing"] == []
    assert told["compared"] > 30
