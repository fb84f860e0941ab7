"""Instructions: what a head says to the LLM of the task at hand, whoever asks. Persona-Plug's ``I``, for every personalizer.

One training run may hold several tasks, and one bundle answers them all: the prefix contract is ``P = rms·g·(P₀ + I_task + ΔP)``, with one
``I`` a task, learned from zero. A head whose events named no task has none of this.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Instructions(nn.Module):
    """``I`` of each task.

    Args:
        tasks: their names; a task's number is its place among them.
        length, dim: ``L`` and ``d_llm``.
    """

    def __init__(self, tasks: Sequence[str], length: int, dim: int) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.vectors = nn.Parameter(torch.zeros(len(self.tasks), length, dim))

    def numbers(self, names: Sequence[str | None]) -> Tensor:
        """Number of each task, int64 ``[n]``; -1 for none, and for one that is not known here."""
        known = {name: number for number, name in enumerate(self.tasks)}
        return torch.tensor([-1 if name is None else known.get(name, -1) for name in names], dtype=torch.int64)

    def forward(self, task: Tensor) -> Tensor:
        """``I`` of tasks by number, int64 ``[n]``, as float32 ``[n, L, d_llm]``; zeros for -1."""
        return torch.cat([torch.zeros_like(self.vectors[:1]), self.vectors])[task + 1]
