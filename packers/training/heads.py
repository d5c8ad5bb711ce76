"""Small heads on a latent of 192 numbers, of the sizes that the study used; examples to copy from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from packers.training.targets import DEPTH_SIZE


class DepthHead(nn.Module):
    """A latent (..., D) to a map (..., 56, 56): a linear layer to 7 x 7, then three times twice the size. 400 K."""

    def __init__(self, latent: int = 192, channels: int = 38) -> None:
        super().__init__()
        self._first = (channels, DEPTH_SIZE[0] // 8, DEPTH_SIZE[1] // 8)
        self.grow = nn.Linear(latent, channels * self._first[1] * self._first[2])
        layers: list[nn.Module] = []
        for size in (channels, channels, channels):
            layers += [nn.GELU(), nn.Upsample(scale_factor=2), nn.Conv2d(size, channels, 3, padding=1)]
        self.refine = nn.Sequential(*layers, nn.GELU(), nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, latent: Tensor) -> Tensor:
        """(..., D) to (..., 56, 56)."""
        lead = latent.shape[:-1]
        maps: Tensor = self.refine(self.grow(latent).reshape(-1, *self._first))
        return maps.reshape(*lead, *maps.shape[-2:])


class VectorHead(nn.Module):
    """A latent (..., D) to numbers (..., *shape) through one hidden layer.

    `VectorHead((400, 2), hidden=135)` gives the displacements of 400 points, 135 K parameters;
    `VectorHead((3,), hidden=190)` a centroid, 37 K; `VectorHead((10,))` the shape descriptors.
    """

    def __init__(self, shape: tuple[int, ...], latent: int = 192, hidden: int = 190) -> None:
        super().__init__()
        self._shape = shape
        count = int(torch.Size(shape).numel())
        self.layers = nn.Sequential(nn.Linear(latent, hidden), nn.GELU(), nn.Linear(hidden, count))

    def forward(self, latent: Tensor) -> Tensor:
        """(..., D) to (..., *shape)."""
        numbers: Tensor = self.layers(latent)
        return numbers.reshape(*latent.shape[:-1], *self._shape)


class TokenHead(nn.Module):
    """Displacements of single points from the latents of the patches they are on: the head for `TrackTokens`.

    Reads the latent of a point's patch at the anchor frame, its position, and how many frames ahead the answer is for;
    points share the weights, so that any number of them will do.
    """

    def __init__(self, latent: int = 192, hidden: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(latent + 3, hidden), nn.GELU(), nn.Linear(hidden, 2))

    def forward(self, patches: Tensor, patch: Tensor, position: Tensor, ahead: Tensor) -> Tensor:
        """Displacements (B, n, N, 2) in shares of the frame's width.

        Args:
            patches: (B, P, D) latents of the anchor frame's patches.
            patch: (B, N) int64, the patch of each point at the anchor; -1 outside the frame, whose answer means nothing
                and has the weight 0 in the target.
            position: (B, N, 2) in shares of the width.
            ahead: (n,) how far each frame is from the anchor, in frames.
        """
        there = patch.clamp(min=0)[..., None].expand(-1, -1, patches.shape[-1])
        point = torch.cat([patches.gather(1, there), position], -1)[:, None].expand(-1, len(ahead), -1, -1)
        when = ahead.to(point.dtype)[None, :, None, None].expand(*point.shape[:3], 1)
        moved: Tensor = self.layers(torch.cat([point, when], -1))
        return moved
