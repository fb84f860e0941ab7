"""What every page stands in: header and navigation, loading, errors, tables and charts. Data is shown as text, never as HTML."""

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

from nicegui import run, ui

from schemas.errors import ConfigError, TapstateError
from store.home import Home

T = TypeVar("T")
NAVIGATION = {
    "Versions": "/",
    "Users": "/user",
    "Nights": "/nights",
    "Rejects": "/rejects",
    "Bundles": "/bundles",
    "Erasures": "/erasures",
}
#: Legible on white and on black.
GREY, BLUE, ORANGE = "#8a8f98", "#4c8cc4", "#d08a3c"
#: Seconds that a browser may take to connect.
CONNECT = 60.0
#: Pages that read the home at once.
READERS = 4


@dataclass(frozen=True)
class Console:
    """What the console shows and may do.

    Attributes:
        uri: the home.
        write: whether aliases may be moved.
    """

    uri: str
    write: bool = False
    #: Held by whoever reads every state: one at a time.
    whole: asyncio.Lock = field(default_factory=asyncio.Lock)
    _readers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READERS))

    def home(self) -> Home:
        """The home as it is now."""
        return Home(self.uri)

    def writable(self) -> Home:
        """The home, to change something in it.

        Raises:
            ConfigError: this console only reads.
        """
        if not self.write:
            raise ConfigError("this console only reads", mend="start it with: tapstate ui --write")
        return self.home()

    async def load(self, read: Callable[..., T], *arguments: object) -> T | None:
        """What ``read(home, …)`` gives, read beside the event loop; an error is shown in its place, and is None."""
        await ui.context.client.connected(timeout=CONNECT)
        spinner = ui.spinner(size="lg").mark("loading")
        try:
            async with self._readers:
                return await run.io_bound(lambda: read(self.home(), *arguments))
        except TapstateError as error:
            failure(error)
            return None
        finally:
            spinner.delete()


@contextmanager
def frame(console: Console, title: str) -> Iterator[None]:
    """Header, navigation and the page's column."""
    # Ids stay out of titles, which browsers keep in their history.
    ui.page_title(f"{title} · tapstate")
    ui.dark_mode(None)
    ui.colors(primary="#2f5d8a")
    with ui.header().classes("items-center gap-6 py-2"):
        ui.label("tapstate").classes("text-lg font-bold")
        for name, path in NAVIGATION.items():
            link = ui.link(name, path).classes("text-white no-underline hover:underline").mark(f"nav-{name}")
            if name == title:
                link.classes("font-bold")
        ui.space()
        ui.label(console.uri).classes("text-sm opacity-80 truncate max-w-xs")
        ui.badge("may promote" if console.write else "read-only", color="orange-9" if console.write else "grey-8").mark("mode")
    with ui.column().classes("w-full max-w-screen-xl mx-auto px-4 gap-4"):
        yield


def failure(error: TapstateError) -> None:
    """An error of ours: what, where, and what mends it."""
    with ui.card().classes("w-full border-l-4 border-red-600").mark("error"):
        ui.label(f"{type(error).__name__}: {error.what}").classes("font-bold")
        if error.where:
            ui.label(error.where).classes("text-sm opacity-70 break-all")
        if error.mend:
            ui.label(f"mend: {error.mend}").classes("font-mono text-sm")


def heading(text: str, about: str = "") -> None:
    """A section's title and a line of what it shows."""
    with ui.column().classes("gap-0 mt-4"):
        ui.label(text).classes("text-xl")
        if about:
            ui.label(about).classes("text-sm opacity-70")


def grid(rows: Sequence[Mapping[str, Any]], empty: str, *, links: Mapping[str, str] | None = None, mark: str = "") -> ui.table | None:
    """A table of rows, one column a key; ``links`` says which column links to the address in which other key."""
    if not rows:
        ui.label(empty).classes("italic opacity-70")
        return None
    links = links or {}
    columns = [
        {
            "name": key,
            "label": key,
            "field": key,
            "align": "right" if isinstance(value, int | float) and not isinstance(value, bool) else "left",
        }
        for key, value in rows[0].items()
        if key not in links.values()
    ]
    cells = [{k: v if k in links.values() else shown(v) for k, v in row.items()} | {"_row": n} for n, row in enumerate(rows)]
    table = ui.table(columns=columns, rows=cells, row_key="_row").props("flat bordered dense wrap-cells").classes("w-full")
    for column, address in links.items():
        table.add_slot(
            f"body-cell-{column}",
            f'<q-td :props="props"><a v-if="props.row.{address}" :href="props.row.{address}" class="underline" style="color: #3f86c6">'
            "{{ props.value }}</a><span v-else>{{ props.value }}</span></q-td>",
        )
    return table.mark(mark) if mark else table


def chart(options: dict[str, Any], height: int = 260) -> ui.echart:
    """A plot with axes legible in light and dark."""
    text = {"color": GREY}
    for axis in ("xAxis", "yAxis"):
        for one in options[axis] if isinstance(options[axis], list) else [options[axis]]:
            one.setdefault("axisLabel", {}).update(text)
            one.setdefault("nameTextStyle", text)
            one.setdefault("splitLine", {"lineStyle": {"color": GREY, "opacity": 0.25}})
    if "legend" in options:
        options["legend"].setdefault("textStyle", text)
    return ui.echart({"animation": False, **options}).style(f"height: {height}px").classes("w-full")


def bars(names: Sequence[str], series: Mapping[str, tuple[Sequence[float | None], str]], height: int = 200) -> None:
    """Plots side by side over the same versions: values and colour of each by title."""
    with ui.row().classes("w-full no-wrap"):
        for title, (values, color) in series.items():
            chart(
                {
                    "title": {"text": title, "textStyle": {"fontSize": 13, "color": GREY}},
                    "tooltip": {},
                    "grid": {"left": 60, "right": 10, "top": 35, "bottom": 40},
                    "xAxis": {"type": "category", "data": names, "name": "version", "nameLocation": "middle", "nameGap": 25},
                    "yAxis": {"type": "value"},
                    "series": [{"type": "bar", "data": values, "barMaxWidth": 30, "itemStyle": {"color": color}}],
                },
                height,
            )


def shown(value: Any) -> str:
    """A value as people read it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if math.isfinite(value) else str(value)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def address(path: str, **parameters: object) -> str:
    """A link within the console; values are quoted."""
    query = "&".join(f"{k}={quote(str(v), safe='')}" for k, v in parameters.items() if v is not None)
    return f"{path}?{query}" if query else path
