"""The written references say what the code says."""

from flows.reference import DOCS, pages


def test_the_references_are_of_this_code() -> None:
    for name, text in pages().items():
        assert (DOCS / name).read_text() == text, f"{name} is stale: python -m flows.reference"
