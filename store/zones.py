"""Zones: the least and the greatest value of a column in each fragment, so that rows of a range are looked for where they can be."""

from dataclasses import dataclass, field

import lance
import pyarrow.compute as pc


@dataclass
class Zones:
    """Zones of the fragments seen so far; one that holds no row has none."""

    held: dict[tuple[str, str], tuple[int, int] | None] = field(default_factory=dict)

    def overlapping(self, dataset: lance.LanceDataset, column: str, low: int, high: int) -> list[lance.LanceFragment]:
        """Fragments with a zone of the int64 column that meets ``low … high``."""
        found = []
        for fragment in dataset.get_fragments():
            # Data files never change; rows that were deleted since leave a zone too wide at most.
            name = column, fragment.metadata.files[0].path
            if name not in self.held:
                self.held[name] = _zone(fragment, column)
            zone = self.held[name]
            if zone and zone[0] <= high and zone[1] >= low:
                found.append(fragment)
        return found


def _zone(fragment: lance.LanceFragment, column: str) -> tuple[int, int] | None:
    parts = [pc.min_max(batch.column(column)).as_py() for batch in fragment.to_batches(columns=[column]) if batch.num_rows]
    return (min(part["min"] for part in parts), max(part["max"] for part in parts)) if parts else None
