"""The embedding cache: a text's vector, computed once per encoder, ever.

Rows are named by content (key = hash of the text, table = fingerprint of the encoder), so they need no record: what a
killed writer left is as good as what a finished one wrote, and a key written twice holds the same vector.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store.home import Home


class Embeddings:
    """Vectors of one encoder.

    Args:
        home: the home.
        encoder: the encoder's fingerprint.
        dim: width of its vectors.
    """

    def __init__(self, home: Home, encoder: str, dim: int) -> None:
        self.home, self.name, self.dim = home, f"embeddings-{encoder[:16]}", dim
        self.schema = pa.schema(
            [pa.field("key", pa.int64(), nullable=False), pa.field("vector", pa.list_(pa.float16(), dim), nullable=False)]
        )

    def known(self, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which keys have a vector."""
        found = self.home.tables.find(self.name, self.schema, ["key"], {"key": keys})
        return np.isin(keys, found.column("key").to_numpy())

    def mark(self) -> int:
        """To be taken before the texts are read: see ``Tables.mark``."""
        return self.home.tables.mark(self.name, self.schema)

    def append(self, keys: npt.NDArray[np.int64], vectors: npt.NDArray[np.float16], since: int) -> None:
        """Keep float16 vectors ``[n, dim]`` under int64 keys ``[n]``.

        Raises:
            ConflictError: an erasure came since the mark.
        """
        self.commit(self.stage(keys, vectors, since))

    def stage(self, keys: npt.NDArray[np.int64], vectors: npt.NDArray[np.float16], since: int) -> list[str]:
        """Write vectors aside; ``commit`` makes them part of the cache."""
        flat = pa.array(vectors.reshape(-1))
        rows = pa.Table.from_arrays([pa.array(keys), pa.FixedSizeListArray.from_arrays(flat, self.dim)], schema=self.schema)
        return self.home.tables.stage(self.name, rows, since)

    def commit(self, fragments: Sequence[str]) -> None:
        """Make staged vectors part of the cache, all at once; those that are already stay as they are.

        Raises:
            ConflictError: an erasure came since a vector's mark.
        """
        self.home.tables.commit(self.name, fragments)

    def read(self, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
        """Vectors ``[n, dim]`` of int64 keys ``[n]``; the keys may repeat.

        Raises:
            KeyError: a key has no vector.
        """
        wanted, place = np.unique(keys, return_inverse=True)
        vectors = np.empty((len(wanted), self.dim), np.float16)
        filled = np.zeros(len(wanted), bool)
        table = self.home.tables.find(self.name, self.schema, ["key", "vector"], {"key": wanted})
        if table.num_rows:
            rows = np.searchsorted(wanted, table.column("key").to_numpy())
            vectors[rows] = table.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, self.dim)
            filled[rows] = True
        if not filled.all():
            raise KeyError(f"{int((~filled).sum())} texts have no vector in {self.name}")
        return vectors[place]
