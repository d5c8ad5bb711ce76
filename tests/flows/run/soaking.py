"""A machine that looks for wrong data: the real engine with tiny stages, and whatever people do to a source and a run.

`python -m tests.flows.run.soaking --steps 20000` (`make soak`) prints each seed; a failure is printed as the shortest
program that shows it. After every run that was not disturbed, each episode of the source must have the row and the
packet, to the last byte, that a fresh run on the source as it is now, with the settings as they are now, gives it.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import fsspec
import hypothesis
import numpy as np
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, Phase, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from extractors.errors import CorruptDataError
from extractors.types import Episode
from flows.config import load_config
from flows.output import manifest as manifest_module
from flows.output.directory import OutputDirectory
from flows.output.manifest import COST_PREFIXES, Manifest
from flows.output.rebuild import rebuild_manifest
from flows.output.remote_store import RemoteStore
from flows.output.store import Store
from flows.remote.files import Remote
from flows.run import shard as shard_module
from flows.run.carry_out import Outcome, carry_out, run_shard_plainly
from flows.run.plan import Plan, Request, make_plan, record_run
from flows.sources.base import EpisodeInfo
from flows.stages.base import Stage, StageInputs, StageOutput
from flows.stages.source import SOURCE
from packers.reader import check_digest
from packers.writer import encode
from scoring.criteria import combine
from tests.flows.batches import Silent

NAMES = tuple(f"e{number}" for number in range(5))
INSTRUCTIONS = ("put the cup on the plate", "fold the cloth")
KNOBS: dict[str, tuple[str, ...]] = {
    "packet.height": ("8", "12"),
    "masks.choose": ("best", "first"),
    "depth.stabilize": ("true", "false"),
    "tracks.seed": ("0", "1"),
    "geometry.field_of_view": ("60.0", "50.0"),
    "scoring.weight_task": ("1.0", "3.0"),
}
FIXED = ("run.profile=cpu", "packet.width=8")
THRESHOLDS = (None, "0.5", "0.8")
FROM = ("masks", "depth", "tracks", "geometry", "quality", "pack")
VOLATILE = (*COST_PREFIXES, "stages_computed", "source_stamp", "packed_from", "recorded_at")
OF_AN_EARLIER_PACKET = ("packet", "sha256", "bytes")


class Killed(BaseException):
    """The process is no more; nothing catches it, and nothing is written after it."""


@dataclass(frozen=True)
class TinySource:
    """A file per episode, always of one size: value, instruction and whether it is broken, a digit each."""

    root: Path
    kind: str = "tiny"
    dataset: str = "tiny"
    camera_aliases: tuple[str, ...] = ()

    def episodes(self) -> Iterator[EpisodeInfo]:
        for file in sorted(self.root.glob("*.txt")):
            _, instruction, _ = file.read_text()
            number = NAMES.index(file.stem)
            yield EpisodeInfo(file.stem, number, 2 + number, INSTRUCTIONS[int(instruction)], ("front",), 5.0, (file,))

    def open(self, info: EpisodeInfo, camera: str | None = None) -> Episode:
        value, _, broken = (int(digit) for digit in info.files[0].read_text())
        if broken:
            raise CorruptDataError("the file is broken")
        assert info.n_frames is not None
        t = np.arange(info.n_frames)
        pixels = np.zeros((len(t), 6, 6, 3), np.uint8)
        pixels[:] = (20 * value + 10 * t + info.episode_index + 40)[:, None, None, None]
        return Episode(
            episode_id=info.episode_id,
            episode_index=info.episode_index,
            camera_name="front",
            language_instruction=info.language_instruction,
            fps=5.0,
            pixels=pixels,
            timestamp=t / 5.0,
            action=np.ones((len(t), 2), np.float32),
            action_valid=np.ones(len(t), bool),
            provenance={
                "dataset": self.dataset,
                "kind": self.kind,
                "path": info.files[0].name,
                "episode_index": info.episode_index,
                "camera": "front",
                "frame_ids": t.tolist(),
            },
        )


def _read(inputs: StageInputs, name: str) -> Any:
    found = inputs.read(name)
    assert found is not None
    return found


def _masks(inputs: StageInputs) -> StageOutput:
    pixels, first = _read(inputs, "pixels"), inputs.config.masks.choose == "first"
    masks = np.zeros(pixels.shape[:3], bool)
    masks[:, :4, : 3 if first else 4] = True
    datasets = {
        "masks/object": encode("masks/object", masks),
        "masks/score": encode("masks/score", pixels.mean((1, 2, 3)).astype(np.float32) / 255),
    }
    return StageOutput(datasets, {"first": first}, backend="tiny")


def _depth(inputs: StageInputs) -> StageOutput:
    values = _read(inputs, "pixels")[..., 0].astype(np.float32) + float(inputs.config.depth.stabilize)
    return StageOutput({"extra/depth": encode("extra/depth", values)}, backend="tiny")


def _tracks(inputs: StageInputs) -> StageOutput:
    rng = np.random.default_rng(inputs.config.tracks.seed)
    values = _read(inputs, "masks/object").sum((1, 2)) + rng.random(1)
    return StageOutput({"extra/tracks": encode("extra/tracks", values.astype(np.float32))}, backend="tiny")


def _geometry(inputs: StageInputs) -> StageOutput:
    focal = float(inputs.config.geometry.field_of_view)
    matrix = np.array([[focal, 0, 3.5], [0, focal, 3.5], [0, 0, 1]], np.float32)
    joined = _read(inputs, "extra/depth").mean((1, 2)) + _read(inputs, "extra/tracks")
    return StageOutput(
        {
            "intrinsics": encode("intrinsics", matrix, source="assumed", sigma=0.2),
            "extra/joined": encode("extra/joined", joined.astype(np.float32)),
        }
    )


def _quality(inputs: StageInputs) -> StageOutput:
    task = 1.0 if inputs.source["language_instruction"] == INSTRUCTIONS[0] else 0.1
    score = float(_read(inputs, "extra/joined").mean() % 1.0)
    scores = combine(
        {"task": task, "length": 1.0, "displacement": score, "mask": 1.0, "depth": None}, inputs.config.scoring
    )
    return StageOutput({}, {"scores": scores, "quality": {}, "tags": sorted(inputs.source["tags"])})


def _tiny(name: str, inputs: tuple[str, ...], knob: str, run: Callable[[StageInputs], StageOutput]) -> Stage:
    section, _, key = knob.partition(".")
    return Stage(name, 1, inputs, lambda config: {knob: getattr(getattr(config, section), key)}, run)


STAGES = (
    SOURCE,
    _tiny("masks", ("source",), "masks.choose", _masks),
    _tiny("depth", ("source",), "depth.stabilize", _depth),
    _tiny("tracks", ("source", "masks/object"), "tracks.seed", _tracks),
    _tiny("geometry", ("source", "masks/*", "extra/depth", "extra/tracks"), "geometry.field_of_view", _geometry),
    _tiny("quality", ("source", "extra/joined"), "scoring.weight_task", _quality),
)


NAMES_OF_STAGES = (*(stage.name for stage in STAGES), "pack")


@contextlib.contextmanager
def tiny_engine() -> Iterator[None]:
    """The engine with these stages and sources, in this process."""
    with (
        mock.patch.object(logging.getLogger("cuepack"), "disabled", True),
        mock.patch("flows.run.shard.STAGES", STAGES),
        mock.patch("flows.run.shard.ALL_STAGES", NAMES_OF_STAGES),
        mock.patch("flows.run.carry_out.ALL_STAGES", NAMES_OF_STAGES),
        mock.patch("flows.run.plan.STAGES", STAGES),
        mock.patch("flows.run.plan.open_source", lambda named, columns=None: TinySource(Path(named))),
        mock.patch("flows.remote.files.WAITS_S", (0.0,)),
    ):
        yield


@contextlib.contextmanager
def killed_after(calls: int) -> Iterator[None]:
    """SIGKILL as far as one process can play it: from the given step on, nothing that changes a file is done."""
    left = calls

    def step() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            step()
            result = original(*arguments, **options)
            step()
            return result

        return call

    with contextlib.ExitStack() as stack:
        for owner, name in (
            (Store, "save"),
            (Store, "forget"),
            (Store, "publish"),
            (RemoteStore, "publish"),
            (Remote, "put"),
            (Manifest, "add"),
            (Manifest, "forget_journal"),
            (manifest_module, "written_whole"),
            (shard_module, "pack_episode"),
        ):
            stack.enter_context(mock.patch.object(owner, name, dying(getattr(owner, name))))
        yield


@dataclass
class World:
    """A source, an output directory and the settings; what the rules change.

    Attributes:
        folder: everything is below it.
        uri: of the output directory, None for a local one.
        contents: episode -> its file's content and time, as (text, nanoseconds).
        past: contents that were there before.
        clock: the next file time.
        settings: knob -> value; `threshold` is select.min_score.
        spoiled: what was put in the place of packets.
        oracle: (episode, content, settings) -> row and bytes of a fresh run.
    """

    folder: Path
    uri: str | None
    contents: dict[str, tuple[str, int]] = field(default_factory=dict)
    past: list[tuple[str, tuple[str, int]]] = field(default_factory=list)
    clock: int = 1_700_000_000_000_000_000
    settings: dict[str, str] = field(default_factory=lambda: {knob: values[0] for knob, values in KNOBS.items()})
    threshold: str | None = None
    oracle: dict[Any, tuple[dict[str, Any], bytes | None]] = field(default_factory=dict)
    moves: int = 0
    spoiled: set[bytes] = field(default_factory=set)

    @property
    def source(self) -> Path:
        return self.folder / "in"

    @property
    def out(self) -> str:
        return self.uri or str(self.folder / f"out-{self.moves}")

    def write(self, name: str, text: str, at: int | None = None) -> None:
        if at is None:
            self.clock += 10**9
            at = self.clock
        self.source.mkdir(parents=True, exist_ok=True)
        file = self.source / f"{name}.txt"
        file.write_text(text)
        os.utime(file, ns=(at, at))
        if name in self.contents:
            self.past.append((name, self.contents[name]))
        self.contents[name] = (text, at)

    def remove(self, name: str) -> None:
        (self.source / f"{name}.txt").unlink()
        self.past.append((name, self.contents.pop(name)))

    def assignments(self) -> list[str]:
        chosen = [*FIXED, *(f"{knob}={value}" for knob, value in self.settings.items())]
        return chosen if self.threshold is None else [*chosen, f"select.min_score={self.threshold}"]

    def plan(self, *settings: str, **request: Any) -> Plan:
        config = load_config(assignments=[*self.assignments(), *settings])
        return make_plan(Request(str(self.source), OutputDirectory.open(self.out), config, **request))

    def run(self, plan: Plan) -> Outcome:
        record_run(plan, "soak")
        outcome = carry_out(plan, Silent(), run_shard_plainly)
        assert outcome.error is None, outcome.error
        if outcome.interrupted:
            raise KeyboardInterrupt  # somebody stops the soak
        return outcome

    def fresh(self, name: str) -> tuple[dict[str, Any], bytes | None]:
        """The row and the packet of an episode after a run into an empty directory."""
        known = (name, self.contents[name][0], tuple(self.settings.values()), self.threshold)
        if known not in self.oracle:
            place = Path(tempfile.mkdtemp(dir=self.folder))
            try:
                (place / "in").mkdir()
                shutil.copy2(self.source / f"{name}.txt", place / "in")
                config, out = load_config(assignments=self.assignments()), OutputDirectory.open(place / "out")
                self.run(make_plan(Request(str(place / "in"), out, config)))
                row = out.manifest.rows()[name]
                packet = (out.root / row["packet"]).read_bytes() if row["packet"] else None
            finally:
                shutil.rmtree(place)
            self.oracle[known] = lasting(row), packet
        return self.oracle[known]

    def check(self) -> None:
        """Every episode of the source has the row and the packet of a fresh run; what is listed is there and whole."""
        directory = OutputDirectory.open(self.out)
        rows = directory.manifest.rows()
        directory.fetch(directory.root / row["packet"] for row in rows.values() if row.get("packet"))
        for name in self.contents:
            row, packet = self.fresh(name)
            found = lasting(rows[name])
            if row["status"] != "done":
                row, found = ({k: v for k, v in r.items() if k not in OF_AN_EARLIER_PACKET} for r in (row, found))
            assert found == row, f"{name}: row {_differing(found, row)}"
            if packet is not None:
                assert (directory.root / rows[name]["packet"]).read_bytes() == packet, f"{name}: other bytes"
        for name, row in rows.items():
            if row.get("packet"):
                path = directory.root / row["packet"]
                assert path.exists(), f"{name} is listed and is not there"
                check_digest(path)
                if name in self.contents:
                    facts = directory.store().packet_columns(name, row)
                    assert facts["sha256"] == row["sha256"], f"{name}: the listed sha256 is another packet's"
        assert not list((directory.root / ".work" / "stages").glob("*/*/.tmp-*"))

    def check_whole(self) -> None:
        """Whatever happened, no packet is torn, but for what was damaged on purpose and nothing had to make again."""
        directory = OutputDirectory.open(self.out)
        packets = sorted((directory.root / "packets").glob("*/*.h5"))
        directory.fetch(packets)
        for path in packets:
            if path.read_bytes() not in self.spoiled:
                check_digest(path)


def lasting(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what differs from run to run."""
    return {name: row[name] for name in row if row[name] is not None and not name.startswith(VOLATILE)}


def _differing(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    names = found.keys() | wanted.keys()
    return {name: (found.get(name), wanted.get(name)) for name in names if found.get(name) != wanted.get(name)}


names = strategies.sampled_from(NAMES)
digits = strategies.integers(0, 3)


class Soak(RuleBasedStateMachine):
    """What people and machines do; see `World`."""

    steps = 0

    @initialize(data=strategies.data(), count=strategies.integers(1, 4))
    def begin(self, data: Any, count: int) -> None:
        shm = Path("/dev/shm")  # a disk's fsync would take most of the time
        self.folder = Path(tempfile.mkdtemp(prefix="cuepack-soak-", dir=shm if os.access(shm, os.W_OK) else None))
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(tiny_engine())
        self.stack.enter_context(mock.patch.dict(os.environ, {"CUEPACK_CACHE": str(self.folder / "cache-0")}))
        MemoryFileSystem.store.clear()
        kind = data.draw(strategies.sampled_from(("local", "memory")))
        self.world = World(self.folder, "memory://soak/out" if kind == "memory" else None)
        for name in NAMES[:count]:
            self.world.write(name, f"{count % 3}00")

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.stack.close()
            shutil.rmtree(self.folder, ignore_errors=True)
        MemoryFileSystem.store.clear()

    def _counted(self) -> None:
        type(self).steps += 1

    @rule(name=names, value=digits, instruction=strategies.integers(0, 1))
    def change_or_add(self, name: str, value: int, instruction: int) -> None:
        self._counted()
        self.world.write(name, f"{value}{instruction}0")

    @rule(name=names)
    def touch(self, name: str) -> None:
        self._counted()
        if name in self.world.contents:
            self.world.write(name, self.world.contents[name][0])

    @rule(name=names)
    def break_file(self, name: str) -> None:
        self._counted()
        if name in self.world.contents:
            self.world.write(name, self.world.contents[name][0][:2] + "1")

    @rule(data=strategies.data())
    def put_back(self, data: Any) -> None:
        """A copy of before, with the time of before."""
        self._counted()
        if self.world.past:
            name, (text, at) = data.draw(strategies.sampled_from(self.world.past))
            self.world.write(name, text, at)

    @rule(name=names)
    def remove(self, name: str) -> None:
        self._counted()
        if name in self.world.contents and len(self.world.contents) > 1:
            self.world.remove(name)

    @rule(first=names, second=names)
    def swap_names(self, first: str, second: str) -> None:
        """Two files change names, and keep their times."""
        self._counted()
        if first != second and {first, second} <= self.world.contents.keys():
            a, b = self.world.contents[first], self.world.contents[second]
            self.world.write(first, *b)
            self.world.write(second, *a)

    @rule(knob=strategies.sampled_from(sorted(KNOBS)), other=strategies.booleans())
    def set_knob(self, knob: str, other: bool) -> None:
        self._counted()
        self.world.settings[knob] = KNOBS[knob][other]

    @rule(threshold=strategies.sampled_from(THRESHOLDS))
    def set_threshold(self, threshold: str | None) -> None:
        self._counted()
        self.world.threshold = threshold

    @rule(workers=strategies.integers(1, 2), size=strategies.sampled_from((1, 2, 64)), rehash=strategies.booleans())
    def extract(self, workers: int, size: int, rehash: bool) -> None:
        self._counted()
        self.world.run(self.world.plan(f"run.workers={workers}", f"run.shard_size={size}", rehash=rehash))
        self.world.check()

    @rule()
    def extract_new_only(self) -> None:
        self._counted()
        self.world.run(self.world.plan(new_only=True))
        self.world.check()

    @rule(name=names, stage=strategies.sampled_from(("source", *FROM[:-1])))
    def extract_while_a_stage_fails(self, name: str, stage: str) -> None:
        self._counted()

        def failing(each: Stage) -> Stage:
            def run(inputs: StageInputs) -> StageOutput:
                episode = inputs.results["source"].record.report["source"]["path"] if inputs.results else None
                if episode in (None, f"{name}.txt"):
                    raise RuntimeError("injected")
                return each.run(inputs)

            return Stage(each.name, each.version, each.inputs, each.settings, run) if each.name == stage else each

        broken = tuple(failing(each) for each in STAGES)
        with mock.patch("flows.run.shard.STAGES", broken):
            outcome = self.world.run(self.world.plan())
        errors = {row["error"] for row in outcome.rows if row["status"] == "failed"}
        assert errors <= {"injected", "the file is broken"}, errors
        self.world.check_whole()

    @rule(calls=strategies.integers(0, 60), size=strategies.sampled_from((1, 64)))
    def extract_killed(self, calls: int, size: int) -> None:
        self._counted()
        plan = self.world.plan(f"run.shard_size={size}", "run.workers=1")
        with contextlib.suppress(Killed), killed_after(calls):
            self.world.run(plan)
        self.world.check_whole()

    @rule(chosen=strategies.sets(names, min_size=1), stage=strategies.sampled_from((None, *FROM)))
    def rerun(self, chosen: set[str], stage: str | None) -> None:
        self._counted()
        ids = tuple(sorted(chosen & self.world.contents.keys()))
        if ids:
            self.world.run(self.world.plan())
            self.world.run(self.world.plan(ids=ids, force_from=stage))
            self.world.check()

    @rule(name=names, value=digits)
    def a_run_begins_late(self, name: str, value: int) -> None:
        """It was planned before the source changed and another run worked on it, and may meet the source of before."""
        self._counted()
        before = self.world.contents.get(name)
        late = self.world.plan()
        self.world.write(name, f"{value}00")
        self.world.run(self.world.plan())
        if before is not None:
            self.world.write(name, *before)
        self.world.run(late)
        self.world.run(self.world.plan())
        self.world.check()

    @rule(name=names)
    def another_run_holds_an_episode(self, name: str) -> None:
        self._counted()
        with OutputDirectory.open(self.world.out).store().locked([name]):
            outcome = self.world.run(self.world.plan())
        busy = [row["episode_id"] for row in outcome.rows if row["status"] == "busy"]
        assert set(busy) <= {name}
        self.world.run(self.world.plan())
        self.world.check()

    @rule()
    def delete_work(self) -> None:
        self._counted()
        shutil.rmtree(OutputDirectory.open(self.world.out).root / ".work", ignore_errors=True)

    @rule(lose=strategies.booleans())
    def rebuild(self, lose: bool) -> None:
        self._counted()
        directory = OutputDirectory.open(self.world.out)
        if not directory.manifest.parquet.exists():
            return
        if lose:
            directory.write("manifest.parquet", b"garbage")
        rebuild_manifest(directory)
        rows = OutputDirectory.open(self.world.out).manifest.rows()
        assert all((directory.root / row["packet"]).exists() for row in rows.values() if row.get("packet"))

    @rule(
        line=strategies.sampled_from((b'{"episode_id": "e0", "sta', b"\xc3", b"[]\n", b'{"episode_id": 7}\n', b"\n\n"))
    )
    def tear_journal(self, line: bytes) -> None:
        self._counted()
        journal = OutputDirectory.open(self.world.out).root / ".work" / "rows.jsonl"
        if journal.exists():
            with journal.open("ab") as file:
                file.write(line)

    @rule(how=strategies.sampled_from(("cut", "flip", "remove")), data=strategies.data())
    def damage_packet(self, how: str, data: Any) -> None:
        """Found by the run after a change, or by size; a flipped bit of the right size waits for `validate`."""
        self._counted()
        fs, root = fsspec.core.url_to_fs(self.world.out)
        packets = sorted(fs.glob(f"{root}/packets/*/*.h5"))
        if not packets:
            return
        path = data.draw(strategies.sampled_from(packets))
        content = fs.cat_file(path)
        if how == "remove":
            fs.rm_file(path)
        else:
            cut, flipped = content[: len(content) // 2], content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
            self.world.spoiled.add(cut if how == "cut" else flipped)
            fs.pipe_file(path, cut if how == "cut" else flipped)
        # Who damages a packet rebuilds the manifest, or nobody would look at a whole-sized one again.
        if OutputDirectory.open(self.world.out).manifest.parquet.exists():
            rebuild_manifest(OutputDirectory.open(self.world.out))
        self.world.run(self.world.plan())
        if not self._damaged():
            self.world.check()

    def _damaged(self) -> bool:
        """Whether a packet of an episode that the source no longer has is damaged: nothing makes it again."""
        listed = {f"{name}.h5" for name in self.world.contents}
        directory = OutputDirectory.open(self.world.out)
        return any(path.name not in listed for path in (directory.root / "packets").glob("*/*.h5"))

    @rule()
    def move_or_change_machine(self) -> None:
        """The directory gets another place, or work goes on from another machine with a cache of its own."""
        self._counted()
        if self.world.uri is not None:
            now = os.environ["CUEPACK_CACHE"][-1]
            os.environ["CUEPACK_CACHE"] = str(self.folder / f"cache-{1 - int(now)}")
            return
        before = Path(self.world.out)
        self.world.moves += 1
        if before.exists():
            before.rename(self.world.out)


def soak(steps: int, seed: int, *, length: int = 40, shrink: bool = True) -> int:
    """Runs programs of at most `length` steps until `steps` steps were done; the steps done."""
    done, number = 0, seed
    while done < steps:
        machine = type("Soak", (Soak,), {"steps": 0})
        settings = hypothesis.settings(
            max_examples=max(1, min(20, (steps - done) // length)),
            stateful_step_count=length,
            deadline=None,
            database=None,
            print_blob=True,
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(hypothesis.seed(number)(machine), settings=settings)
        done, number = done + machine.steps, number + 1
    return done


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-shrink", action="store_true", help="print the first failing program as it was found")
    arguments = parser.parse_args()
    done, seed, started = 0, arguments.seed, time.monotonic()
    while done < arguments.steps:
        done += soak(min(400, arguments.steps - done), seed, shrink=not arguments.no_shrink)
        print(f"seeds from {seed}: {done} steps in all, {time.monotonic() - started:.0f} s, no fault", flush=True)
        seed += 1000


if __name__ == "__main__":
    main()
