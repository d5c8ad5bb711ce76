"""A small report of a study that never ran: its numbers are made up, its frames tell which one they are."""

from __future__ import annotations

from functools import cache

import numpy as np

from flows.study.latents import Probe, encode_episodes
from flows.study.probes_latents import collapse
from flows.study.probes_predictions import error_over_horizon
from flows.study.report_data import GLOBAL, SAME, STATIC, ConditionRow, Curve, EpisodePage, StudyReport
from tests.flows.study.toy_models import Constant, Perfect, world

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><!--<script>$x$"
SIDE = 24
TAGS = (["models-beat-static"], ["tight-tie", "no-grasp"], ["static-dominates"])


def frames(n: int, seed: int = 0):
    """Frames on which a light square moves to the right; the blue ground tells the episode."""
    shown = np.zeros((n, SIDE, SIDE, 3), np.uint8)
    shown[..., 2] = 60 + 60 * (seed % 4)
    for row in range(n):
        left = round((SIDE - 8) * row / max(1, n - 1))
        shown[row, 8:16, left : left + 8] = (240, 200, 40)
    return shown


def condition(name: str, verdict: str, change: float | None, **more) -> ConditionRow:
    values = {
        "label": f"what {name} is",
        "low": None if change is None else change - 0.05,
        "high": None if change is None else change + 0.05,
        "detectable": 0.06,
        "errors": {"teacher_forced": 0.2 + (change or 0) / 5, "rolled_out": 0.4, "copy": 0.25, "constant": 1.0},
        "by_fifth": [0.0, -0.01, None, -0.1, -0.2],
        "inverse_dynamics": 0.4,
        "copy_ratio": 1.4,
        "seeds": 3,
    }
    return ConditionRow(name=name, verdict=verdict, change=change, **(values | more))


def episode(name: str, seed: int, n: int = 14, *, start: int = 3, **more) -> EpisodePage:
    ahead = n - start
    retrieved = {
        "A": {GLOBAL: [20 * seed + at for at in range(ahead)], SAME: [start + at for at in range(ahead)]},
        "D": {GLOBAL: [20 * seed] * ahead, SAME: [0] * (ahead - 2)},
    }
    errors = {
        STATIC: [0.1 * at for at in range(1, ahead + 1)],
        "A": [0.05 * (seed + 1) * at for at in range(1, ahead + 1)],
        "D": [0.04 * at for at in range(1, ahead + 1)],
    }
    values = {"instruction": f"push the cup {seed}", "tags": TAGS[seed % 3], "errors": errors, "retrieved": retrieved}
    return EpisodePage(name, frames=frames(n, seed), start=start, **(values | more))


@cache
def some_probes(model) -> tuple[Probe, ...]:
    seen = encode_episodes(model(), world(3, 16))
    return error_over_horizon(seen), collapse(seen)


def report(**more) -> StudyReport:
    rng = np.random.default_rng(0)
    epochs = list(range(1, 21))
    curves = [
        Curve(
            f"{name} seed {seed}", name, epochs, [float(0.2 + np.exp(-at / 4) + rng.normal(0, 0.02)) for at in epochs]
        )
        for name in ("A", "D", "F")
        for seed in (0, 1)
    ]
    values = {
        "title": "Which cue helps",
        "settings": {"model": "tiny", "epochs": 10, "learning_rate": 5e-5, "seeds": [0, 1, 2]},
        "counts": {"held_out": 4, "left_out": {"depth is missing": 2}, "hardware": "2 CPU cores"},
        "warnings": ["1 run diverged and is not averaged in: F seed 1."],
        "method": ["Intervals: paired bootstrap over seeds and episodes, 95 %."],
        "conditions": [
            condition("A", "baseline", None),
            condition("D", "helps", -0.16),
            condition("C-8", "regularises only", -0.07),
            condition("E", "nothing", 0.01),
            condition("G", "hurts", 0.09),
            condition("F", "cannot tell", -0.03, seeds=2, diverged=1, low=-0.2, high=0.2),
        ],
        "curves": {"Held-out error": curves},
        "probes": {
            "A": some_probes(Constant),
            "D": some_probes(Perfect),
        },
        "episodes": [
            episode("ep_0", 0, link="view/episode.html?id=ep_0"),
            episode("ep_1", 1),
            episode("ep_2", 2, n=90),
            episode(HOSTILE, 3, instruction=HOSTILE, tags=[HOSTILE]),
        ],
        "bank": np.concatenate([frames(20, seed) for seed in range(10)]),
    }
    return StudyReport(**(values | more))
