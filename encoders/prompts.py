"""Prompt and item templates."""

import re


def render(template: str, text: str, target: str = "") -> str:
    """A prompt or item template filled in; braces in the texts are text."""
    return "".join({"{text}": text, "{target}": target}.get(part, part) for part in re.split(r"(\{text\}|\{target\})", template))
