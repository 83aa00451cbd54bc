"""Step 3: the published network, two linear layers over the four histograms."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn
from torch.nn import functional

from models.breast_density.preprocess import BINS
from models.breast_density.views import VIEWS

HIDDEN: Final = 100
CLASSES: Final = 4


class HistogramNetwork(nn.Module):
    """Probabilities of the four categories.

    Input: float32 (n, 200), the shares of L-CC, R-CC, L-MLO and R-MLO one after the other.
    Output: float32 (n, 4), each row sums to 1. In between it calculates in float64, where the
    order in which 200 products are added cannot be seen in the result.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(BINS * len(VIEWS), HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, CLASSES)

    def forward(self, shares: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(_exactly(self.fc1, shares.double()))
        return torch.softmax(_exactly(self.fc2, hidden), dim=1).to(shares.dtype)


def _exactly(layer: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
    return functional.linear(inputs, layer.weight.double(), layer.bias.double())
