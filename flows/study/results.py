"""From the runs' files to what a person reads: the comparison, tags beside the manifest, and the report's page."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import CuepackError, OutputError
from flows.output.study_tags import STUDY_TAGS, write_study_tags
from flows.study.comparison import (
    LEAST_EFFECT,
    Change,
    ConditionResult,
    compare,
    episode_tags,
    where_copying_wins,
)
from flows.study.conditions import BASELINE, NOTHING, SHUFFLED
from flows.study.data import shown_frames, whole_episodes
from flows.study.evaluation import EVALUATION_FILE, Evaluation, TorchLatents, read_evaluation
from flows.study.models import Floats, LatentModel, StudyEpisode, roll_out
from flows.study.plan import Run, StudyPlan
from flows.study.probes import probe_model
from flows.study.report import write_report
from flows.study.report_data import GLOBAL, SAME, STATIC, ConditionRow, Curve, EpisodePage, StudyReport
from flows.study.training import CURVES_FILE, read_trained
from packers.atomic import write_whole
from packers.cores import usable_cpus

COMPARISON_FILE, REPORT_FOLDER = "comparison.json", "report"

BANK_FRAMES = 400
"""Training frames that global retrieval looks through, evenly spread: a picture sheet of about 3 MB."""

SHOWN_FRAMES = 60
"""Frames of a roll-out that an episode's page shows at most."""


def make_report(plan: StudyPlan) -> str:
    """Compares what is there, keeps comparison.json and the tags, writes the page; returns table and notes in Markdown.

    Raises:
        CuepackError: no run has a result, or a file cannot be read or written.
    """
    found, diverged, missing = collect(plan)
    if not found:
        raise CuepackError(f"no run of {plan.out} has a result: {len(diverged)} diverged, {len(missing)} are missing")
    by_size = {size: _of_size(found, size) for size in dict.fromkeys(run.episodes for run in found)}
    left_out = {size: _seeds(diverged, size) for size in by_size}
    results = [each for size, own in by_size.items() for each in compare(own, size, left_out[size])]
    write_whole(plan.out / COMPARISON_FILE, json.dumps([_plain(each) for each in results], indent=1) + "\n")
    largest = max(by_size, key=lambda size: size or math.inf)
    tags = _tagged(plan, by_size[largest])
    found_out = [*_missed(diverged, missing), *filter(None, [where_copying_wins(results)])]
    warnings = [*plan.warnings, *found_out]
    shown = [run for run in found if run.episodes == largest and not _is_control(run.condition)]
    shown = [run for run in shown if run.seed == min(each.seed for each in shown if each.condition == run.condition)]
    write_report(_report(plan, results, shown, tags, warnings), plan.out / REPORT_FOLDER)
    return "\n\n".join([markdown(results), *(f"Note: {sentence}." for sentence in found_out)])


def collect(plan: StudyPlan) -> tuple[dict[Run, Evaluation], list[Run], list[Run]]:
    """The evaluations of all runs, the runs that diverged, and those without a result."""
    found, diverged, missing = {}, [], []
    for run in plan.runs:
        folder = plan.folder(run)
        if (folder / EVALUATION_FILE).exists():
            found[run] = read_evaluation(folder)
        elif (folder / CURVES_FILE).exists() and read_curves(folder)["diverged"]:
            diverged.append(run)
        else:
            missing.append(run)
    return found, diverged, missing


def read_curves(folder: Path) -> dict[str, Any]:
    """What training a run kept: curves, whether it diverged, seconds and steps.

    Raises:
        OutputError: the file cannot be read.
    """
    path = folder / CURVES_FILE
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path} cannot be read: {error}; remove the folder, and run `cuepack study` again"
        ) from error
    return record


def read_comparison(path: Path) -> list[dict[str, Any]]:
    """The results as comparison.json holds them."""
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def markdown(results: Sequence[ConditionResult]) -> str:
    """The table: verdicts, changes, errors, and what costs nothing."""
    sizes = len({each.episodes for each in results}) > 1
    head = [
        "condition",
        *(["episodes"] if sizes else []),
        "seeds",
        "verdict",
        "change to A (95 %)",
        "error",
        "rolled out",
    ]
    head += ["copy", "constant", "error / copy", "actions R2"]
    lines = [head, ["---"] * len(head), *(_cells(each, sizes=sizes) for each in results)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(each: ConditionResult, *, sizes: bool) -> list[str]:
    return [
        each.condition,
        *([str(each.episodes or "all")] if sizes else []),
        str(len(each.seeds)) + (f" ({len(each.diverged)} diverged)" if each.diverged else ""),
        each.verdict,
        "" if each.change is None else _said(each.change),
        *(f"{each.errors[name]:.3f}" for name in ("one_step", "rolled_out")),
        f"{each.by_horizon['copy'][0]:.3f}",
        f"{each.by_horizon['constant'][0]:.3f}",
        f"{each.copy_ratio:.2f}",
        _number(each.inverse_dynamics.get("predicted")),
    ]


def _said(change: Change) -> str:
    if not math.isfinite(change.low):
        return f"{100 * change.value:+.1f} % (one seed or episode: no interval)"
    return f"{100 * change.value:+.1f} % ({100 * change.low:+.1f} to {100 * change.high:+.1f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _of_size(found: dict[Run, Evaluation], size: int) -> dict[tuple[str, int], Evaluation]:
    return {(run.condition, run.seed): each for run, each in found.items() if run.episodes == size}


def _seeds(diverged: Sequence[Run], size: int) -> dict[str, list[int]]:
    seeds: dict[str, list[int]] = {}
    for run in diverged:
        if run.episodes == size:
            seeds.setdefault(run.condition, []).append(run.seed)
    return seeds


def _is_control(condition: str) -> bool:
    return condition == NOTHING or condition.endswith(SHUFFLED)


def _missed(diverged: Sequence[Run], missing: Sequence[Run]) -> list[str]:
    said = [f"{run.name} diverged: a loss was no longer a number; it takes no part in means" for run in diverged]
    if missing:
        said.append(f"{len(missing)} runs have no result ({missing[0].name} is the first); run the command again")
    return said


def _tagged(plan: StudyPlan, own: dict[tuple[str, int], Evaluation]) -> dict[str, tuple[str, ...]]:
    """The tags of held-out episodes, kept in the study and beside the manifest of the packets."""
    models = {key: each for key, each in own.items() if not _is_control(key[0])}
    tags = {plan.held_out[number]: tags for number, tags in episode_tags(models).items()}
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["episode_id", "tags"])
    writer.writerows([name, ";".join(tags[name])] for name in sorted(tags))
    write_whole(plan.out / STUDY_TAGS, table.getvalue())
    source = Path(plan.source)
    if (source / "manifest.csv").exists():
        write_study_tags(source, tags)
    return tags


def _report(
    plan: StudyPlan,
    results: Sequence[ConditionResult],
    shown: Sequence[Run],
    tags: dict[str, tuple[str, ...]],
    warnings: Sequence[str],
) -> StudyReport:
    models: dict[str, LatentModel] = {run.condition: TorchLatents(read_trained(plan, run).model) for run in shown}
    held_out, training = (whole_episodes(plan, shown[0], side) for side in ("val", "train"))
    pictures, bank_pictures = (shown_frames(plan, shown[0], side) for side in ("val", "train"))
    kept = _bank_rows(training)
    counts = {
        **plan.facts,
        "trained on": len(training),
        "held out": len(held_out),
        "runs": len(plan.runs),
        "machine": f"{platform.machine()}, {usable_cpus()} cores",
        "date": time.strftime("%Y-%m-%d"),
    }
    return StudyReport(
        title=f"Which cue helps: {Path(plan.source).name}",
        settings={**asdict(plan.settings), "sizes of the network": asdict(plan.settings.sizes)},
        counts=counts,
        warnings=warnings,
        conditions=[_row(each, results) for each in results],
        curves=_curves(plan),
        probes={name: probe_model(model, held_out, training) for name, model in models.items()},
        episodes=_pages(models, held_out, pictures, training, kept, tags),
        bank=np.concatenate([frames[rows] for frames, rows in zip(bank_pictures, kept, strict=True)]),
        method=(
            "Errors are squared distances of latents, divided by the variance of the held-out latents of the same run.",
            "Changes are paired by seed and episode; intervals are a bootstrap over both, widened for small samples.",
            f"nothing: the whole interval is within {100 * LEAST_EFFECT:.0f} % of no change. helps: below no change, "
            "and below the controls. regularises only: below no change, and a control does as well.",
            "The held-out episodes are the same in all runs; training episodes, weights and batches are the same in "
            "all conditions of a seed.",
        ),
    )


def _row(each: ConditionResult, results: Sequence[ConditionResult]) -> ConditionRow:
    from flows.study.conditions import named_conditions

    plain = each.condition.removesuffix(SHUFFLED)
    candidates = named_conditions(
        [BASELINE, *([] if plain in (NOTHING, BASELINE) else [plain])], ["nothing", "shuffled"]
    )
    label = (
        next(condition.label for condition in candidates if condition.name == each.condition)
        if plain != NOTHING
        else ("a head on noise")
    )
    base = next((r for r in results if r.condition == BASELINE and r.episodes == each.episodes), each)
    fifths = [
        None if not math.isfinite(own) or base is each else own / other - 1
        for (own, _), (other, _) in zip(each.by_fifth, base.by_fifth, strict=True)
    ]
    several = len({result.episodes for result in results}) > 1
    change = each.change
    bounded = change is not None and math.isfinite(change.low)
    return ConditionRow(
        name=f"{each.condition} ({each.episodes or 'all'} episodes)" if several else each.condition,
        label=label,
        verdict=each.verdict,
        change=None if change is None else change.value,
        low=change.low if change and bounded else None,
        high=change.high if change and bounded else None,
        detectable=change.detectable if change and bounded else None,
        errors={
            "teacher_forced": each.errors["one_step"],
            "rolled_out": each.errors["rolled_out"],
            "copy": each.by_horizon["copy"][0],
            "constant": each.by_horizon["constant"][0],
        },
        by_fifth=fifths,
        inverse_dynamics=each.inverse_dynamics.get("predicted"),
        copy_ratio=each.copy_ratio if math.isfinite(each.copy_ratio) else None,
        seeds=len(each.seeds),
        diverged=len(each.diverged),
    )


def _curves(plan: StudyPlan) -> dict[str, list[Curve]]:
    charts: dict[str, list[Curve]] = {"prediction": [], "sigreg": [], "head": []}
    for run in plan.runs:
        if not (plan.folder(run) / CURVES_FILE).exists():
            continue
        record = read_curves(plan.folder(run))
        for name, values in record["curves"].items():
            if any(values):
                finite = [value if math.isfinite(value) else None for value in values]
                charts[name].append(Curve(run.name, run.condition, range(1, len(values) + 1), finite))
    return {f"training loss: {name}": curves for name, curves in charts.items() if curves}


def _bank_rows(training: Sequence[StudyEpisode]) -> list[NDArray[np.int64]]:
    """Which frames of each training episode global retrieval looks through."""
    total = sum(len(episode.frames) for episode in training)
    step = max(1, math.ceil(total / BANK_FRAMES))
    return [np.arange(0, len(episode.frames), step) for episode in training]


def _pages(
    models: dict[str, LatentModel],
    held_out: Sequence[StudyEpisode],
    pictures: Sequence[NDArray[np.uint8]],
    training: Sequence[StudyEpisode],
    kept: Sequence[NDArray[np.int64]],
    tags: dict[str, tuple[str, ...]],
) -> list[EpisodePage]:
    banks = {
        name: np.concatenate([model.encode(episode.frames[rows]) for episode, rows in zip(training, kept, strict=True)])
        for name, model in models.items()
    }
    pages = []
    history = next(iter(models.values())).history
    spread = {name: _variance(model, held_out) for name, model in models.items()}
    for episode, frames in zip(held_out, pictures, strict=True):
        if len(episode.frames) <= history:
            continue  # nothing is left to predict
        length = min(len(episode.frames), history + SHOWN_FRAMES)
        retrieved, errors = {}, {}
        for name, model in models.items():
            latents = model.encode(episode.frames[:length])
            rolled = roll_out(model, latents[None, :history], episode.actions[None, : length - 1])[0]
            scale = spread[name]
            retrieved[name] = {GLOBAL: _nearest(rolled, banks[name]), SAME: _nearest(rolled, latents)}
            errors[name] = (((rolled - latents[history:]) ** 2).mean(1) / scale).round(5).tolist()
            if name == BASELINE:
                copied = ((latents[history - 1] - latents[history:]) ** 2).mean(1) / scale
                errors[STATIC] = copied.round(5).tolist()
        pages.append(
            EpisodePage(
                episode.episode_id,
                episode.instruction,
                tags.get(episode.episode_id, ()),
                frames[:length],
                history,
                retrieved,
                errors,
            )
        )
    return pages


def _variance(model: LatentModel, held_out: Sequence[StudyEpisode]) -> float:
    """Of the latents of all held-out frames, which errors are divided by, as in the table."""
    latents = np.concatenate([model.encode(episode.frames) for episode in held_out])
    return float(((latents - latents.mean(0)) ** 2).mean()) or 1.0


def _nearest(rolled: Floats, among: Floats) -> list[int]:
    squares = (rolled**2).sum(1)[:, None] + (among**2).sum(1) - 2 * rolled @ among.T
    return [int(at) for at in squares.argmin(1)]


def _plain(result: ConditionResult) -> dict[str, Any]:
    """A result as JSON values; what is not finite is null."""
    return _finite(asdict(result))  # type: ignore[no-any-return]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
