"""What a home holds: events, embedding cache, states, versions, aliases, models, bundles and their client. Knows no model.

``open_store`` is the way in for who reads: ``from store import open_store``.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from store.reader import Store


def open_store(uri: str) -> "Store":
    """Open the home at ``uri`` for reading.

    Raises:
        HomeError: no home there, or one that this release cannot open.
    """
    # Not at the top: who imports ``store.client`` alone need not have LanceDB.
    from store.reader import Store

    return Store(uri)
