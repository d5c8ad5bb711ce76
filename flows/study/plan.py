"""What a study trains: settings, the split of the packets, and one run for each condition, size and seed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from extractors.errors import ConfigError, OutputError
from flows.study.conditions import BASELINE, Condition, named_conditions
from flows.study.world_model import SIZES, Tokens, WorldModelSizes
from packers.atomic import write_whole
from packers.training.index import FOLDER, Entry, index_packets
from packers.training.selection import find_place

STUDY_FILE, SPLITS, RUNS = "study.json", "splits", "runs"

STEP_S = 0.2
"""Seconds between two frames of a window where `frameskip` is not set: BridgeData's own step, at any frame rate."""

LEAST_HELD_OUT = 2
"""Held-out episodes without which no interval over episodes can be drawn."""

_VERSION = 1
"""Raised when what a run computes changes; older runs are left unused."""


@dataclass(frozen=True, slots=True)
class StudySettings:
    """What the runs of a study share.

    Attributes:
        model: a name of `SIZES`, or "stable-worldmodel".
        side: of the square frames, pixels; None: the model's own.
        tokens: "cls", or "patches" for a latent of each patch.
        epochs: over the training windows.
        batch: windows of a step.
        rate: AdamW's learning rate; None: 5e-5 as in the study, 3e-4 for `tiny`, whose few hundred steps it would not
            move.
        weight: of the heads' losses beside the prediction's.
        frameskip: rows from one frame to the next; None: `STEP_S`.
        horizon: frames that held-out episodes are rolled out for.
        held_share: share of the episodes that are held out.
        split_seed: fixes which.
        moving: train on windows where something moves alone (`Window(moving=...)`).
    """

    model: str = "tiny"
    side: int | None = None
    tokens: Tokens = "cls"
    epochs: int = 10
    batch: int = 16
    rate: float | None = None
    weight: float = 0.1
    frameskip: int | None = None
    horizon: int = 8
    held_share: float = 0.2
    split_seed: int = 0
    moving: bool = False

    def __post_init__(self) -> None:
        if self.model not in (*SIZES, "stable-worldmodel"):
            raise ConfigError(f"the model is one of {[*SIZES, 'stable-worldmodel']}, got {self.model!r}")
        if not 0 < self.held_share < 1:
            raise ConfigError(f"wanted a share of held-out episodes between 0 and 1, got {self.held_share}")
        if min(self.epochs, self.batch - 1, self.horizon) < 1:
            raise ConfigError("wanted at least 1 epoch, a batch of 2 or more and a horizon of at least 1")
        if self.side is not None and self.side % self.sizes.patch:
            raise ConfigError(f"frames of {self.side} px are not filled by patches of {self.sizes.patch} px")

    @property
    def sizes(self) -> WorldModelSizes:
        """Of the network."""
        published = SIZES.get(self.model, SIZES["lewm"])
        return published if self.side is None else replace(published, side=self.side)

    @property
    def learning_rate(self) -> float:
        """AdamW's."""
        return self.rate or (3e-4 if self.model == "tiny" else 5e-5)


@dataclass(frozen=True, slots=True)
class Run:
    """One training.

    Attributes:
        condition: its name, a control's included.
        seed: fixes initial weights, order of batches, and which episodes it trains on.
        episodes: how many it trains on; 0: all.
        key: names its folder; changes with everything that its result depends on.
    """

    condition: str
    seed: int
    episodes: int
    key: str

    @property
    def name(self) -> str:
        """As flow runs and the report say it."""
        return f"{self.condition} seed {self.seed}" + (f" {self.episodes} episodes" if self.episodes else "")


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """A study, as study.json keeps it.

    Attributes:
        out: the study's folder.
        source: the directory of packets, or the selection.
        settings: with `frameskip` decided.
        conditions: names, the baseline first.
        controls: of "nothing" and "shuffled".
        runs: in the order in which they are trained.
        held_out: ids of the episodes that no run trains on.
        training: ids of those that runs train on, or draw from.
        warnings: sentences for the report: what was left out, and why.
        facts: `packets`, `frames`, `fps`, `scenes`.
    """

    out: Path
    source: str
    settings: StudySettings
    conditions: tuple[str, ...]
    controls: tuple[str, ...]
    runs: tuple[Run, ...]
    held_out: tuple[str, ...]
    training: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def folder(self, run: Run) -> Path:
        """Where a run's results are."""
        return self.out / RUNS / run.key

    def selection(self, run: Run) -> Path:
        """The run's selection file: its training episodes and the held-out ones."""
        return self.out / SPLITS / f"{_split_name(run.seed, run.episodes)}.csv"

    def condition(self, run: Run) -> Condition:
        """What the run trains beside the prediction."""
        return next(each for each in self.all_conditions if each.name == run.condition)

    @property
    def all_conditions(self) -> list[Condition]:
        """Conditions and controls."""
        return named_conditions(self.conditions, self.controls)

    def todo(self) -> list[Run]:
        """Runs without a result."""
        return [run for run in self.runs if not (self.folder(run) / "evaluation.npz").exists()]


def make_study(
    source: Path,
    out: Path,
    settings: StudySettings,
    *,
    conditions: Sequence[str],
    controls: Sequence[Literal["nothing", "shuffled"]] = ("nothing", "shuffled"),
    seeds: int = 3,
    sizes: Sequence[int] = (0,),
) -> StudyPlan:
    """Splits the packets of `source` and lists the runs.

    Raises:
        ConfigError: a condition is unknown, no packet has what it needs, the packets have several frame rates, or too
            few episodes are left to train on and to hold out.
    """
    if seeds < 1 or not sizes or min(sizes) < 0:
        raise ConfigError(f"wanted at least 1 seed and sizes of 0 (all) or more episodes, got {seeds}, {list(sizes)}")
    names = (BASELINE, *(name for name in dict.fromkeys(conditions) if name != BASELINE))
    compared = named_conditions(names, controls)
    place = find_place(source)
    entries, faults = index_packets([each.path for each in place.packets], _index(out), damaged="skip")
    warnings = [f"left out: {fault}" for fault in faults]
    entries, lacking = _with_all_cues(entries, compared)
    warnings += lacking
    settings, fps = _timed(entries, settings)
    entries, short = _long_enough(entries, settings)
    warnings += short
    held, training, said = split_by_scene(entries, settings.held_share, settings.split_seed)
    warnings += said
    most = max(sizes)
    if most > len(training):
        raise ConfigError(f"{most} episodes to train on were asked for; {len(training)} are left beside the held-out")
    contents = {entry.facts["episode_id"]: _content(entry.path) for entry in entries}
    runs = []
    for size in sizes:
        for seed in range(seeds):
            taken = draw(training, size, seed)
            _write_split(out / SPLITS / f"{_split_name(seed, size)}.csv", taken, held)
            data = [contents[entry.facts["episode_id"]] for entry in (*taken, *held)]
            runs += [Run(each.name, seed, size, _key(settings, each, seed, data)) for each in compared]
    return StudyPlan(
        out=out,
        source=str(source),
        settings=settings,
        conditions=names,
        controls=tuple(controls),
        # By seed: after the first seeds every condition has a result that can be looked at.
        runs=tuple(sorted(runs, key=lambda run: (run.seed, run.episodes))),
        held_out=tuple(entry.facts["episode_id"] for entry in held),
        training=tuple(entry.facts["episode_id"] for entry in training),
        warnings=tuple(warnings),
        facts={
            "packets": len(entries),
            "frames": sum(entry.facts["n_frames"] for entry in entries),
            "fps": fps,
            "scenes": len({scene_of(entry) for entry in entries}),
        },
    )


def write_study(plan: StudyPlan) -> None:
    """Keeps the plan, for the report and for other processes."""
    stored = {"version": _VERSION, **asdict(plan), "out": "."}
    write_whole(plan.out / STUDY_FILE, json.dumps(stored, indent=1) + "\n")


def read_study(out: Path) -> StudyPlan:
    """The plan of a study's folder.

    Raises:
        OutputError: the folder has none, or it cannot be read.
    """
    try:
        stored = json.loads((out / STUDY_FILE).read_text(encoding="utf-8"))
        if stored.pop("version") != _VERSION:
            raise ValueError("it is of another version; start the study again")
        lists = ("conditions", "controls", "held_out", "training", "warnings")
        plan = {**stored, **{name: tuple(stored[name]) for name in lists}}
        plan["settings"] = StudySettings(**stored["settings"])
        plan["runs"] = tuple(Run(**run) for run in stored["runs"])
        return StudyPlan(**plan | {"out": out})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{out / STUDY_FILE} cannot be read as a study: {error}; run `cuepack study` again"
        ) from error


def scene_of(entry: Entry) -> str:
    """The scene that an episode was recorded in: the folder its source has it in, of one data set.

    BridgeData keeps the episodes of one table and day in a folder, and `raw/traj_group*` below it; sources without
    folders (LeRobot, RLDS) have one scene for all.
    """
    dataset, path, _ = json.loads(entry.facts["group"])
    folders = [part for part in Path(str(path)).parent.parts if part != "raw" and not part.startswith("traj_group")]
    return "/".join([str(dataset), *folders])


def split_by_scene(entries: Sequence[Entry], share: float, seed: int) -> tuple[list[Entry], list[Entry], list[str]]:
    """Held-out and training episodes, no scene and no episode (all its cameras) on both sides, and what to say of it.

    Raises:
        ConfigError: too few episodes are left on a side.
    """
    said: list[str] = []
    groups = defaultdict(list)
    for entry in entries:
        groups[scene_of(entry)].append(entry)
    if len(groups) < 3:
        # Two scenes would make one of them all that is ever trained on.
        said.append(f"{len(groups)} scene(s): episodes are held out, but their scenes are trained on")
        groups = defaultdict(list)
        for entry in entries:
            groups[entry.facts["group"]].append(entry)
    least = max(LEAST_HELD_OUT, math.ceil(share * len(entries)))
    held: list[Entry] = []
    for name in sorted(groups, key=lambda group: _draw(seed, group)):
        # A scene that would make it far more than asked for is passed over for smaller ones.
        if len(held) < least and len(held) + len(groups[name]) <= max(least * 1.5, LEAST_HELD_OUT):
            held += groups[name]
    taken = {entry.key for entry in held}
    training = [entry for entry in entries if entry.key not in taken]
    if len(held) < LEAST_HELD_OUT or not training:
        sizes = sorted((len(group) for group in groups.values()), reverse=True)
        raise ConfigError(
            f"{len(entries)} episodes in {len(groups)} scenes (of {sizes[:5]} episodes) cannot be split into at least "
            f"{LEAST_HELD_OUT} held-out ones and some to train on; extract more episodes, or change --held-share"
        )
    return sorted(held, key=lambda e: e.facts["episode_id"]), training, said


def draw(training: Sequence[Entry], count: int, seed: int) -> list[Entry]:
    """`count` of the training episodes (0: all), drawn by `seed`; a larger draw holds the smaller one."""
    order = sorted(training, key=lambda entry: _draw(seed, entry.facts["episode_id"]))
    return sorted(order[: count or None], key=lambda entry: entry.facts["episode_id"])


def _with_all_cues(entries: list[Entry], conditions: Sequence[Condition]) -> tuple[list[Entry], list[str]]:
    """Packets that have what every condition needs: all conditions are to see the same episodes."""
    lacking: Counter[str] = Counter()
    kept = []
    for entry in entries:
        lacks = [name for each in conditions for name in each.needs if name not in entry.kinds]
        lacking.update(dict.fromkeys(lacks[:1], 1))
        kept += [] if lacks else [entry]
    if not kept:
        what, count = lacking.most_common(1)[0] if lacking else ("packets", 0)
        raise ConfigError(
            f"none of {len(entries)} packets has what all conditions need ({count} lack {what}); leave out the "
            "conditions that need it, or extract with other backends"
        )
    return kept, [f"{count} episodes lack {name} and are left out of all conditions" for name, count in lacking.items()]


def _timed(entries: Sequence[Entry], settings: StudySettings) -> tuple[StudySettings, float | None]:
    rates = sorted({round(float(entry.facts["fps"]), 3) for entry in entries if entry.facts.get("fps")})
    if settings.frameskip is not None:
        return settings, rates[0] if len(rates) == 1 else None
    if len(rates) > 1:
        raise ConfigError(f"the packets have {rates} frames/s; make a selection of one rate, or set --frameskip")
    skip = max(1, round(rates[0] * STEP_S)) if rates else 1
    return replace(settings, frameskip=skip), rates[0] if rates else None


def _long_enough(entries: list[Entry], settings: StudySettings) -> tuple[list[Entry], list[str]]:
    least = (settings.sizes.history + 1) * (settings.frameskip or 1)
    kept = [entry for entry in entries if entry.facts["n_frames"] >= least]
    if not kept:
        longest = max((entry.facts["n_frames"] for entry in entries), default=0)
        raise ConfigError(f"a window needs {least} rows and the longest episode has {longest}; set --frameskip lower")
    short = len(entries) - len(kept)
    return kept, [f"{short} episodes are shorter than a window of {least} rows and are left out"] if short else []


def _key(settings: StudySettings, condition: Condition, seed: int, data: Sequence[str]) -> str:
    """Changes with what a run's result depends on, not with how many seeds or other conditions there are."""
    parts = [_VERSION, asdict(settings), asdict(settings.sizes), repr(condition), seed, list(data)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_split(path: Path, training: Sequence[Entry], held: Sequence[Entry]) -> None:
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["episode_id", "source_id", "split", "packet"])
    for side, entries in (("train", training), ("val", held)):
        writer.writerows([e.facts["episode_id"], e.facts["group"], side, str(e.path.absolute())] for e in entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, table.getvalue())


def _split_name(seed: int, size: int) -> str:
    return f"seed{seed}-{size or 'all'}"


def _index(out: Path) -> Path:
    return out / SPLITS / FOLDER / "index"


def _draw(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"study:{seed}:{name}".encode()).digest(), "big")
