"""Step 3: networks of torchxrayvision's shape: a DenseNet of one channel, one number a finding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import nn
from torch.nn import functional
from torchvision.models import DenseNet  # type: ignore[import-untyped]

#: DenseNet-121.
BLOCKS: Final = (6, 12, 24, 16)


class FindingsNetwork(nn.Module):
    """Scores of findings, each by itself.

    Input: float32 (n, 1, rows, columns), -1024 to 1024.
    Output: float32 (n, findings), 0 to 1. 0.5 is the operating point of each finding, so that
    scores of different findings can be compared; they are no probabilities of disease.

    The tensors are those of `torchxrayvision.models.DenseNet`, and `operating_points`: of each
    finding, the sigmoid that becomes 0.5. A point that is not a number, as of findings that the
    network was not trained for, makes its score not a number, which parks the study.

    Args:
        findings: number of scores.
        growth, blocks, features: of the DenseNet.
    """

    operating_points: torch.Tensor

    def __init__(
        self,
        findings: int = 18,
        growth: int = 32,
        blocks: Sequence[int] = BLOCKS,
        features: int = 64,
    ) -> None:
        super().__init__()
        first, second, third, fourth = blocks
        network = DenseNet(
            growth_rate=growth,
            block_config=(first, second, third, fourth),
            num_init_features=features,
            num_classes=findings,
        )
        network.features.conv0 = nn.Conv2d(1, features, 7, stride=2, padding=3, bias=False)
        self.features, self.classifier = network.features, network.classifier
        self.register_buffer("operating_points", torch.full((findings,), 0.5))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found = functional.relu(self.features(image))
        pooled = functional.adaptive_avg_pool2d(found, (1, 1)).flatten(1)
        share = torch.sigmoid(self.classifier(pooled))
        point = self.operating_points
        below = share / (2 * point)
        above = 1 - (1 - share) / (2 * (1 - point))
        return torch.where(share < point, below, above)
