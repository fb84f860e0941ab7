"""The trained part of the query encoder."""

from torch import Tensor, nn


class QueryAdapter(nn.Module):
    """``q + B·A·q``, ``B`` starting at zero: float32 ``[n, dim]`` to ``[n, dim]``."""

    def __init__(self, dim: int, rank: int = 32) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(dim, rank, bias=False), nn.Linear(rank, dim, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, query: Tensor) -> Tensor:
        return query + self.up(self.down(query))
