"""Bundles of the home: what serving teams can pull, which of them they are told to, and who pulled them."""

import json
from datetime import UTC, datetime
from typing import Any

from nicegui import ui

from flows.ui.frame import Console, frame, grid, heading
from store.home import Home
from store.pulls import latest

#: Bundles and pulls shown.
MOST = 50


def register(console: Console) -> None:
    """The page at ``/bundles``."""

    @ui.page("/bundles")
    async def page() -> None:
        with frame(console, "Bundles"):
            found = await console.load(_read)
            if found is None:
                return
            rows, there, pulled = found
            heading("Bundles", f"{len(rows)} of {there}, newest version first")
            grid(
                rows,
                "No bundle yet: a refresh of a trained line, or tapstate bundle, makes one.",
                links={"version": "_link"},
                mark="bundles",
            )
            heading("Pulls", f"the newest {MOST}; who may only read leaves no record, nor does who serves them in their place")
            grid(pulled, "No pull is recorded.", mark="pulls")


def _read(home: Home) -> tuple[list[dict[str, Any]], int, list[dict[str, Any]]]:
    data = home.objects.get("bundles/CURRENT")
    current = data.decode().strip() if data else None
    # Plain numbers in a name count as numbers, so that v10 follows v9; the one to serve is always among them.
    names = sorted((n for n in home.objects.names("bundles") if not n.startswith(".") and n != "CURRENT"), key=_order, reverse=True)
    chosen = sorted(names, key=lambda name: name != current)[:MOST]
    rows = [row for name in chosen if (row := _row(home, name, current))]
    pulled = [
        {
            "at (UTC)": pull.created_at,
            "by": pull.created_by,
            "bundle": pull.bundle,
            "fetched": pull.fetched,
            "MB": round(pull.bytes / 1e6, 2),
        }
        for pull in latest(home, MOST)
    ]
    return sorted(rows, key=lambda row: -row["version"]), len(names), pulled


def _order(name: str) -> tuple[int, str]:
    digits = "".join(c if c.isdigit() else " " for c in name).split()
    return int(digits[0]) if digits else 0, name


def _llm(model: str) -> str:
    """An LLM's id; of a directory its name, of a hash its beginning."""
    name = model.rpartition("/")[2] if model.startswith("/") or "://" in model else model
    return name[:8] if len(name) == 64 else name


def _row(home: Home, name: str, current: str | None) -> dict[str, Any] | None:
    data = home.objects.get(f"bundles/{name}/manifest.json")
    if data is None:
        return None
    try:
        about = json.loads(data)
        return {
            "bundle": name,
            "serving": "CURRENT" if name == current else "",
            "version": int(about["version"]),
            "_link": f"/version/{int(about['version'])}",
            "users": about["users"],
            "base": (about.get("base") or {}).get("name"),
            "MB": round(sum(file["bytes"] for file in about["files"].values()) / 1e6, 2),
            "llm": _llm(str(about["llm"]["model"])),
            "head": str(about.get("head") or "")[:8],
            "as of (UTC)": datetime.fromtimestamp(about["as_of"], UTC),
            "valid until (UTC)": datetime.fromtimestamp(about["valid_until"], UTC),
        }
    except (ValueError, KeyError, TypeError) as error:
        return {"bundle": name, "serving": "", "version": 0, "_link": None, "users": None, "base": f"manifest cannot be read: {error!r}"}
