"""What a step of the study costs beside a plain PyTorch loop of the same model, and how much of it is loading.

    python -m tests.benchmarks.study_speed [PACKETS] [--steps 40]

Alternating steps, CPU time of one thread; ratios of medians. PACKETS: a directory of packets, by default generated.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from flows.study.data import as_inputs
from flows.study.plan import StudySettings, make_study, write_study
from flows.study.training import Trainer, build_model
from flows.study.world_model import SIGREG_WEIGHT
from tests.tools.study_packets import write_packets


def plain_step(model: Any, heads: Any, optimizer: Any, batch: dict[str, torch.Tensor], draws: torch.Generator) -> None:
    """What a researcher would write: the model's and the head's losses, backward, clip, step."""
    error, spread, latents = model.losses(batch["frames"], batch["action"], draws)
    head = heads.loss(latents, latents, batch, draws)
    (error + SIGREG_WEIGHT * spread + (0 if head is None else 0.1 * head)).backward()
    torch.nn.utils.clip_grad_norm_([*model.parameters(), *heads.parameters()], 1.0)
    optimizer.step()
    optimizer.zero_grad()


def measure(packets: Path, out: Path, steps: int, condition: str) -> dict[str, float]:
    """Medians of CPU seconds: a `plain` step, `ours`, and `loading` of a batch."""
    settings = StudySettings(epochs=1000)
    plan = make_study(packets, out, settings, conditions=["A", condition], controls=(), seeds=1)
    write_study(plan)
    run = next(each for each in plan.runs if each.condition == condition)
    trainer = Trainer(plan, run)
    trainer.model.train()
    plain = build_model(settings.model, plan, trainer.model.action_width)
    heads = deepcopy(trainer.heads)
    optimizer = torch.optim.AdamW([*plain.parameters(), *heads.parameters()], lr=1e-4)
    generator, batches = torch.Generator(), iter(trainer.loader)
    took: dict[str, list[float]] = {"plain": [], "ours": [], "loading": []}
    for number in range(steps + 2):
        times = [time.process_time()]
        try:
            batch = as_inputs(next(batches), "cpu")
        except StopIteration:
            batches = iter(trainer.loader)
            continue
        times.append(time.process_time())
        trainer.train_step(batch)
        times.append(time.process_time())
        plain_step(plain, heads, optimizer, batch, generator)
        times.append(time.process_time())
        if number >= 2:
            for name, begin, end in zip(("loading", "ours", "plain"), times, times[1:], strict=False):
                took[name].append(end - begin)
    return {name: statistics.median(values) for name, values in took.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packets", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if options.packets is None:
            write_packets(root / "packets", 8)
        for condition in ("A", "B", "D", "F"):
            told = measure(options.packets or root / "packets", root / f"study{condition}", options.steps, condition)
            share = told["loading"] / (told["loading"] + told["ours"])
            print(
                f"{condition:3s} plain step {told['plain']:.4f} s, ours {told['ours'] / told['plain']:.3f} of it, "
                f"loading {share:.1%} of the time",
                flush=True,
            )


if __name__ == "__main__":
    main()
