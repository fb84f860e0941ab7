"""pplug: Persona-Plug (arXiv 2409.11901) under the prefix contract.

    w_i = softmax_i(q · h_i),    P = Σ w_i · Proj(h_i),    LLM input [I ; P ; Emb(x)]

``h_i`` in the weights is the item's text alone, as in the paper; ``Proj`` (two layers) also gets its target, through a projection of its
own. ``I``, the learned instruction embedding, is all of the prefix but its last vector: one vector at the paper's L = 2; tasks that
events name have one each beside it (``encoders/instructions.py``). No time enters, and the order of a history does not matter.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from encoders.bank import Bank, there
from encoders.personalizer import MASKED, Head
from schemas.config import PplugConfig


class PplugBank(Bank):
    """The bank without times."""

    name = "pplug"


class PplugHead(Head):
    """Attention by likeness over the bank."""

    name = "pplug"

    def __init__(self, config: PplugConfig, query_dim: int, llm_dim: int, neutral: Tensor, rms: float, neutral_frozen: bool) -> None:
        super().__init__(config, query_dim, llm_dim, neutral, rms, neutral_frozen)
        self.instruction = nn.Parameter(torch.zeros(self.length - 1, llm_dim))
        self.masked_query = nn.Parameter(torch.zeros(query_dim))
        self.from_text = nn.Linear(query_dim, llm_dim)
        self.from_target = nn.Linear(query_dim, llm_dim, bias=False)
        self.out = nn.Linear(llm_dim, llm_dim)
        for layer in (self.from_text, self.from_target):
            # Unit vectors have elements of size dim^-1/2; this makes hidden values of order one.
            nn.init.normal_(layer.weight, std=1.0)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def delta(self, query: Tensor | None, now: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        text, users = state["item_text"], now.shape[0]
        q = self.masked_query.expand(users, -1) if query is None else query
        held = there(text)
        weight = torch.softmax(torch.where(held, (q[:, None] * text).sum(-1), MASKED), 1) * held
        hidden = nn.functional.gelu(self.from_text(text) + self.from_target(state["item_target"]))
        # Proj's last layer after the sum instead of before: the weights add up to one, and it runs once a user.
        person = self.out((weight[:, :, None] * hidden).sum(1) / self.llm_dim**0.5)
        return torch.cat([self.instruction.expand(users, -1, -1), person[:, None]], 1)
