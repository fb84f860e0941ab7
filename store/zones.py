"""Zones: the least and the greatest value of a column in each fragment, so that rows of a range are looked for where they can be."""

from dataclasses import dataclass, field

import lance
import polars as pl
import pyarrow as pa

from store.frames import to_polars


@dataclass
class Zones:
    """Zones of the fragments seen so far, by column and data file; one that holds no row has none."""

    held: dict[tuple[str, str], tuple[int, int] | None] = field(default_factory=dict)

    def overlapping(self, dataset: lance.LanceDataset, column: str, low: int, high: int) -> list[lance.LanceFragment] | None:
        """Fragments with a zone of the int64 column that meets ``low … high``; None where an index knows the rows better.

        Fragments that were not seen before are read, eight bytes a row.
        """
        if any(column in index.field_names for index in dataset.describe_indices()):
            return None
        fragments = dataset.get_fragments()
        # Data files never change; rows that were deleted since leave a zone too wide at most.
        names = {fragment.fragment_id: (column, fragment.metadata.files[0].path) for fragment in fragments}
        fresh = [fragment for fragment in fragments if names[fragment.fragment_id] not in self.held]
        if fresh:
            self.held.update(dict.fromkeys(names[fragment.fragment_id] for fragment in fresh))
            for number, least, greatest in _zones(dataset, column, fresh).iter_rows():
                self.held[names[number]] = least, greatest
        zones = [(fragment, self.held[names[fragment.fragment_id]]) for fragment in fragments]
        return [fragment for fragment, zone in zones if zone and zone[0] <= high and zone[1] >= low]


def _zones(dataset: lance.LanceDataset, column: str, fragments: list[lance.LanceFragment]) -> pl.DataFrame:
    """Number of each fragment with rows, its least and its greatest value."""
    told = pl.col(column).min().alias("least"), pl.col(column).max().alias("greatest")
    parts = []
    for batch in dataset.scanner(columns=[column], fragments=fragments, with_row_address=True).to_batches():
        rows = to_polars(pa.Table.from_batches([batch]))
        parts.append(rows.group_by((pl.col("_rowaddr") // 2**32).alias("fragment")).agg(*told))
    if not parts:
        return pl.DataFrame(schema={"fragment": pl.Int64, "least": pl.Int64, "greatest": pl.Int64})
    return pl.concat(parts).group_by("fragment").agg(pl.col("least").min(), pl.col("greatest").max())
