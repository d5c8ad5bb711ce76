"""How long a study will take, from a few steps on this machine."""

from __future__ import annotations

import time
from typing import Any

from flows.study.plan import StudyPlan
from packers.training.dataset import PacketDataset
from packers.training.windows import Window

TRIED = 3
"""Steps that are timed, after one that is not."""


def estimate(plan: StudyPlan, workers: int) -> dict[str, Any]:
    """`steps` to do, `seconds_per_step` on this machine's CPU, and `minutes` with `workers` side by side."""
    import torch

    from flows.study.world_model import WorldModel

    settings, todo = plan.settings, plan.todo()
    windows: dict[str, int] = {}
    width = 1
    window = Window(settings.sizes.history, 1, settings.frameskip or 1)
    for run in todo:
        name = str(plan.selection(run))
        if name not in windows:
            dataset = PacketDataset(plan.selection(run), window=window, choose="train")
            windows[name], width = len(dataset), dataset.action_width * window.frameskip
    steps = sum(windows[str(plan.selection(run))] // settings.batch * settings.epochs for run in todo)
    if not steps:
        return {"steps": 0, "seconds_per_step": 0.0, "minutes": 0.0}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = WorldModel(settings.sizes, width, settings.tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    shape = (settings.batch, settings.sizes.history + 1, settings.sizes.side, settings.sizes.side, 3)
    frames = torch.randint(0, 255, shape, dtype=torch.uint8)
    actions, generator = torch.zeros(*shape[:2], width), torch.Generator()
    took = []
    for _ in range(TRIED + 1):
        began = time.perf_counter()
        error, spread, _ = model.losses(frames, actions, generator)
        (error + spread).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        took.append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    seconds = min(took[1:])
    return {
        "steps": steps,
        "seconds_per_step": round(seconds, 4),
        "minutes": round(steps * seconds / max(1, min(workers, len(todo))) / 60, 3),
    }
