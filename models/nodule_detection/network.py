"""The network: a heat map of nodule centres, and what is read from it.

A U-shaped network of convolutions sees one patch and gives, on a grid that is half as fine in
plane, how much each place looks like the centre of a nodule, where in its cell the centre lies,
and how wide the nodule is (CenterNet: Zhou et al., arXiv 1904.07850; Law and Deng,
arXiv 1808.01244). `NoduleDetector` reads the highest peaks inside the network, so that what
comes out are boxes and scores and any runtime gives the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

#: Voxel size in mm of what the network sees (feet to head, front to back, right to left).
SPACING_MM = (2.0, 1.5, 1.5)
#: Voxels of one patch; the network takes any multiple of `MULTIPLE`.
PATCH = (48, 96, 96)
MULTIPLE = (8, 16, 16)
#: Voxels of a patch for each cell of the heat map.
STRIDE = (1, 2, 2)
#: HU that become 0 and 1.
WINDOW_HU = (-1000.0, 400.0)
#: Boxes that one patch gives.
PEAKS = 16
#: Peaks below become empty boxes with score 0: their order would be chance.
FLOOR = 0.05
#: Diameters in mm that a box can have.
DIAMETERS_MM = (2.0, 40.0)
_WIDTHS = (16, 32, 64, 96)


class _Block(nn.Sequential):
    def __init__(self, inside: int, outside: int, stride: int | tuple[int, int, int] = 1) -> None:
        super().__init__(
            nn.Conv3d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm3d(outside),
            nn.ReLU(inplace=True),
        )


class NoduleNet(nn.Module):
    """Patch (n, 1, z, y, x) in 0 to 1 to maps (n, 5, z, y / 2, x / 2).

    Channels: logit of being a centre; offset of the centre from the cell along z, y and x, in
    cells; logarithm of the diameter in mm.
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = _WIDTHS
        self.level0 = nn.Sequential(_Block(1, a, STRIDE), _Block(a, a))
        self.level1 = nn.Sequential(_Block(a, b, 2), _Block(b, b))
        self.level2 = nn.Sequential(_Block(b, c, 2), _Block(c, c))
        self.level3 = nn.Sequential(_Block(c, d, 2), _Block(d, d))
        self.up2 = _Block(d + c, c)
        self.up1 = _Block(c + b, 24)
        self.up0 = _Block(24 + a, 16)
        self.head = nn.Conv3d(16, 5, 1)
        with torch.no_grad():
            # Centres are rare; 8 mm wide.
            assert self.head.bias is not None
            self.head.bias.copy_(torch.tensor([-4.0, 0.0, 0.0, 0.0, 2.08]))
            self.head.weight.mul_(0.1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        first = self.level0(image)
        second = self.level1(first)
        third = self.level2(second)
        low = self.level3(third)
        low = self.up2(torch.cat([_doubled(low), third], 1))
        low = self.up1(torch.cat([_doubled(low), second], 1))
        low = self.up0(torch.cat([_doubled(low), first], 1))
        maps: torch.Tensor = self.head(low)
        return maps


class NoduleDetector(nn.Module):
    """What is shipped: patches (n, 1, z, y, x) to boxes, scores and labels.

    Args:
        network: trained; used as it is.
    """

    stride: torch.Tensor
    spacing: torch.Tensor

    def __init__(self, network: NoduleNet) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("stride", torch.tensor(STRIDE, dtype=torch.float32))
        self.register_buffer("spacing", torch.tensor(SPACING_MM, dtype=torch.float32))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(boxes, scores, labels) of the highest peaks, best first.

        Returns:
            boxes (n, PEAKS, 6): centre z, y, x and widths z, y, x in voxels of the patch, where
            0 is the middle of the first voxel; scores (n, PEAKS), 0 to 1; labels (n, PEAKS),
            1 everywhere. A box that is none has score 0 and only zeros.
        """
        maps = self.network(image)
        heat = torch.sigmoid(maps[:, :1])
        alone = heat >= F.max_pool3d(heat, 3, 1, 1)
        peaks = torch.where(alone & (heat >= FLOOR), heat, torch.zeros_like(heat))
        rows, columns = maps.shape[3], maps.shape[4]
        scores, places = torch.topk(peaks.flatten(1), PEAKS)
        rest = maps[:, 1:].flatten(2)
        found = torch.gather(rest, 2, places[:, None].expand(-1, 4, -1)).transpose(1, 2)
        # Float arithmetic is exact here, and the same in every runtime.
        place = places.to(torch.float32)
        z = torch.floor((place + 0.5) / (rows * columns))
        inside = place - z * (rows * columns)
        y = torch.floor((inside + 0.5) / columns)
        cells = torch.stack([z, y, inside - y * columns], 2)
        centre = (cells + found[..., :3].clamp(-1.0, 1.0)) * self.stride
        width = found[..., 3:].exp().clamp(*DIAMETERS_MM) / self.spacing
        kept = (scores > 0).to(torch.float32)
        boxes = torch.cat([centre, width], 2) * kept[..., None]
        return boxes, scores, torch.ones_like(places)


def _doubled(maps: torch.Tensor) -> torch.Tensor:
    return F.interpolate(maps, scale_factor=2.0, mode="nearest")
