"""The embedding cache: a text's vector, computed once per encoder, ever.

Rows are named by content (key = hash of the text, table = fingerprint of the encoder), so they need no record: what a
killed writer left is as good as what a finished one wrote, and a key written twice holds the same vector.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from store.home import Home

#: Keys of one look-up.
LOOKUP = 50_000


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
        found = [t.column("key").to_numpy() for t in self._parts(keys, ["key"])]
        return np.isin(keys, np.concatenate(found)) if found else np.zeros(len(keys), bool)

    def mark(self) -> int:
        """To be taken before the texts are read: see ``Tables.mark``."""
        return self.home.tables.mark(self.name, self.schema)

    def append(self, keys: npt.NDArray[np.int64], vectors: npt.NDArray[np.float16], since: int) -> None:
        """Keep float16 vectors ``[n, dim]`` under int64 keys ``[n]``.

        Raises:
            ConflictError: an erasure came since the mark.
        """
        flat = pa.array(vectors.reshape(-1))
        batch = pa.RecordBatch.from_arrays([pa.array(keys), pa.FixedSizeListArray.from_arrays(flat, self.dim)], schema=self.schema)
        self.home.tables.append(self.name, self.schema, iter([batch]), since)

    def read(self, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
        """Vectors ``[n, dim]`` of int64 keys ``[n]``; the keys may repeat.

        Raises:
            KeyError: a key has no vector.
        """
        wanted, place = np.unique(keys, return_inverse=True)
        vectors = np.empty((len(wanted), self.dim), np.float16)
        filled = np.zeros(len(wanted), bool)
        for table in self._parts(wanted, ["key", "vector"]):
            rows = np.searchsorted(wanted, table.column("key").to_numpy())
            vectors[rows] = table.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, self.dim)
            filled[rows] = True
        if not filled.all():
            raise KeyError(f"{int((~filled).sum())} texts have no vector in {self.name}")
        return vectors[place]

    def _parts(self, keys: npt.NDArray[np.int64], columns: list[str]) -> Iterator[pa.Table]:
        for start in range(0, len(keys), LOOKUP):
            filter = pc.field("key").isin(pa.array(keys[start : start + LOOKUP]))
            table = self.home.tables.read(self.name, self.schema, columns, filter=filter)
            if table.num_rows:
                yield table
