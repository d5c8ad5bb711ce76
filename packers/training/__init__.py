"""Training on packets: datasets, targets, losses and heads.

    from packers.training import CONDITIONS, PacketDataset, PacketLoader, Window

Nothing here imports torch before `PacketLoader`, `losses` or `heads` is used.
"""

from packers.training.collate import collate, collate_torch
from packers.training.dataset import PacketDataset, Reading
from packers.training.loader import PacketBatches, PacketLoader
from packers.training.selection import Choice
from packers.training.targets import (
    CONDITIONS,
    Centroids,
    Contact,
    Depth,
    Frames,
    Masks,
    Shape,
    Stored,
    Target,
    Tracks,
    TrackTokens,
)
from packers.training.windows import Window

__all__ = [
    "CONDITIONS",
    "Centroids",
    "Choice",
    "Contact",
    "Depth",
    "Frames",
    "Masks",
    "PacketBatches",
    "PacketDataset",
    "PacketLoader",
    "Reading",
    "Shape",
    "Stored",
    "Target",
    "TrackTokens",
    "Tracks",
    "Window",
    "collate",
    "collate_torch",
]
