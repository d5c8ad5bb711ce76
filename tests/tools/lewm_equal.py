"""Our LeWorldModel beside stable-worldmodel's class: seeded weights through its names, equal latents and predictions.

    PYTHONPATH=. .clients/bin/python -m tests.tools.lewm_equal

In the environment of `make clients`, which has stable-worldmodel and what it needs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from flows.study.checkpoint import load_world_model
from flows.study.stable_worldmodel import StableWorldModel
from flows.study.world_model import SIZES

ACTION_WIDTH, CLOSE = 10, 1e-5


def official() -> StableWorldModel:
    """Its network in its published configuration, with seeded weights that no symmetry hides."""
    torch.manual_seed(0)
    model = StableWorldModel(SIZES["lewm"], ACTION_WIDTH)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return model.eval()


def main() -> None:
    """Compares; exit code 1 where they differ."""
    theirs = official()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lewm.pt"
        torch.save(theirs.state_dict(), path)
        model = load_world_model(path)
    if model.sizes != SIZES["lewm"]:
        sys.exit(f"read as {model.sizes}, wanted {SIZES['lewm']}")
    frames = torch.randint(0, 255, (2, 3, 224, 224, 3), dtype=torch.uint8)
    actions = torch.randn(2, 3, ACTION_WIDTH)
    with torch.inference_mode():
        wanted, latents = theirs.encode(frames), model.encode(frames)
        latent = (latents - wanted).abs().max().item()
        prediction = (model.predict(latents, actions) - theirs.predict(wanted, actions)).abs().max().item()
    print(f"largest difference: latents {latent:.1e}, predictions {prediction:.1e}")
    sys.exit(0 if max(latent, prediction) < CLOSE else 1)


if __name__ == "__main__":
    main()
