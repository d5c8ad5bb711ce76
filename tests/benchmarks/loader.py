"""How fast windows are read for training: packets beside plain h5py and stable-worldmodel's reader, in one run.

    python -m tests.benchmarks.loader [PACKETS] [--count 300] [--client PYTHON] [--rounds 5] [--many 100000]

PACKETS: packets to copy until there are `--count` (default: the bundled sample, extracted with the cpu profile, about a
minute). PYTHON: an interpreter with stable-worldmodel (`make clients` makes one); without it that row is left out.
All readers get the same random windows of 3 + 1 frames, 5 rows apart, with all 20 rows of actions. Rounds go through
all readers in turn; medians are printed, wall and processor time, with the ratio to stable-worldmodel's HDF5 reader.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from packers.export.lerobot.dataset import plan_lerobot, write_lerobot
from packers.export.lerobot.plan import STOCK
from packers.reader import Packet
from packers.training import Depth, Masks, PacketDataset, PacketLoader, Reading, Target, Tracks, Window
from packers.training.index import FOLDER, _save, index_packets
from packers.training.prepared import PreparedTarget

WINDOW = Window(3, 1, 5)
PREPARED = Reading(prepare=True)
CLIENT = Path(__file__).with_name("loader_client.py")
PLAIN = ("pixels", "action")
CUES = (*PLAIN, "depth", "object_mask", "tracks", "track_visibility")

OTHERS = {"Lance": "stable-worldmodel Lance (JPEG)", "LeRobot": "LeRobot video"}

HDF5 = "stable-worldmodel HDF5"

TARGETS = {"PacketDataset": 10, "packet": 10, "packets": 10, "cues prepared": 6}
"""How many times as fast as that reader a `PacketDataset` is to be, by how the row's name ends."""

Read = Callable[[int], object]


def copied(packets: list[Path], count: int, folder: Path) -> None:
    """`count` packets in `folder`: copies, so that each has its own pages in the page cache."""
    folder.mkdir(parents=True)
    for number in range(count):
        shutil.copyfile(packets[number % len(packets)], folder / f"episode_{number:06}.h5")


def targets(depth: str) -> tuple[Target, ...]:
    return Depth(depth), Masks(), Tracks()


def write_flat(dataset: PacketDataset, depth: str, path: Path) -> None:
    """stable-worldmodel's own layout: one row a chunk, nothing compressed; targets as they are cut."""
    lengths = [entry.facts["n_frames"] for entry in dataset.entries]
    total = sum(lengths)
    with h5py.File(path, "w", libver="latest") as file:
        file["ep_len"] = np.array(lengths, np.int32)
        file["ep_offset"] = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        for entry, start in zip(dataset.entries, file["ep_offset"][:], strict=True):
            window = PacketDataset(
                entry.path, Window(entry.facts["n_frames"], 0), targets(depth), reading=dataset.reading
            )
            sample = window[0]
            with Packet(entry.path) as packet:
                columns = {"pixels": sample["pixels"], "action": packet["action"], "depth": sample["depth"]}
                columns |= {"object_mask": sample["mask"], "tracks": packet["tracks/grid/xy"]}
                columns |= {"track_visibility": packet["tracks/grid/visibility"].astype(np.float32)}
            for name, rows in columns.items():
                if name not in file:
                    file.create_dataset(name, (total, *rows.shape[1:]), rows.dtype, chunks=(1, *rows.shape[1:]))
                file[name][start : start + len(rows)] = rows


def plain_h5py(dataset: PacketDataset, *, kept_open: bool, step: bool) -> Read:
    held: dict[int, h5py.File] = {}

    def read(number: int) -> object:
        clip, start = dataset.table.place(number)
        file = held.get(clip) or h5py.File(dataset.entries[clip].path, locking=False)
        if kept_open:
            held[clip] = file
        stop = start + WINDOW.span
        pixels = (
            file["pixels"][start : stop : WINDOW.frameskip] if step else file["pixels"][start:stop][:: WINDOW.frameskip]
        )
        found = pixels, file["action"][start:stop]
        if not kept_open:
            file.close()
        return found

    return read


def open_packet(dataset: PacketDataset) -> Read:
    held: dict[int, Packet] = {}

    def read(number: int) -> object:
        clip, start = dataset.table.place(number)
        packet = held.setdefault(clip, Packet(dataset.entries[clip].path))
        stop = start + WINDOW.span
        return packet.read("pixels", start, stop, WINDOW.frameskip), packet.read("action", start, stop)

    return read


def timed(read: Read, numbers: list[int]) -> tuple[float, float]:
    """Seconds of wall and processor time for a window."""
    started, used = time.perf_counter(), time.process_time()
    for number in numbers:
        read(number)
    return (time.perf_counter() - started) / len(numbers), (time.process_time() - used) / len(numbers)


def timed_loader(dataset: PacketDataset, workers: int, seconds: float = 8.0) -> tuple[float, float]:
    """The same of a torch loader with batches of 16, its processes started."""
    loader = PacketLoader(dataset, 16, workers=workers, drop_last=True, persistent_workers=False)
    batches = iter(loader)
    for _ in range(2 * workers + 1):
        next(batches)
    count, started, used = 0, time.perf_counter(), time.process_time()
    for _ in batches:
        count += 1
        if time.perf_counter() - started > seconds:
            break
    found = (time.perf_counter() - started) / (16 * count), (time.process_time() - used) / (16 * count)
    del batches  # ends the workers before others are forked
    return found


def timed_client(python: Path, flat: Path, plan: Path, *sets: tuple[str, ...]) -> list[tuple[float, float]]:
    command = [str(python), str(CLIENT), str(flat), str(plan), "/".join(",".join(columns) for columns in sets)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{python} cannot run the client:\n{done.stderr[-2000:]}")
    return [tuple(row) for row in json.loads(done.stdout.splitlines()[-1])]


def forget(folder: Path) -> None:
    """Drops the page cache of all files below `folder`."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def contenders(folder: Path, depth: str) -> Iterator[tuple[str, PacketDataset, Read]]:
    """Name, dataset, and how it reads a window."""
    plain = PacketDataset(folder, WINDOW)
    yield "PacketDataset", plain, plain.__getitem__
    always = PacketDataset(folder, WINDOW, reading=Reading(verify="always"))
    yield "PacketDataset, every read verified", always, always.__getitem__
    one = PacketDataset(folder, WINDOW, reading=Reading(open_files=1, cache_bytes=0))
    yield "PacketDataset, 1 open file", one, one.__getitem__
    yield "Packet kept open, with a step", plain, open_packet(plain)
    yield "h5py kept open, sliced", plain, plain_h5py(plain, kept_open=True, step=False)
    yield "h5py opened per window, sliced", plain, plain_h5py(plain, kept_open=False, step=False)
    cues = PacketDataset(folder, WINDOW, targets(depth))
    yield "PacketDataset, cues", cues, cues.__getitem__
    prepared = PacketDataset(folder, WINDOW, targets(depth), reading=PREPARED)
    yield "PacketDataset, cues prepared", prepared, prepared.__getitem__
    # Last and of fewer windows: its numbers are taken modulo its length.
    one_packet = min(folder.glob("*.h5"))
    for name, single in (
        ("PacketDataset, 1 packet", PacketDataset(one_packet, WINDOW)),
        ("PacketDataset, 1 packet, cues prepared", PacketDataset(one_packet, WINDOW, targets(depth), reading=PREPARED)),
    ):
        yield name, single, lambda number, single=single: single[number % len(single)]


def measure(folder: Path, depth: str, arguments: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    readers = list(contenders(folder, depth))
    dataset, by_name = readers[0][1], {name: dataset for name, dataset, _ in readers}
    flat, plan = folder.parent / "flat.h5", folder.parent / "plan.json"
    lerobot = folder.parent / "lerobot"
    if arguments.client:
        write_flat(dataset, depth, flat)
        write_lerobot(plan_lerobot([entry.path for entry in dataset.entries], only=STOCK, trim=True), lerobot)
    for number in range(arguments.rounds):
        numbers = np.random.default_rng(number).integers(0, len(dataset), arguments.windows).tolist()
        for name, _, read in readers:
            if number == 0 and not name.startswith("h5py"):
                timed(read, numbers)  # the first reading of a frame also verifies it: that is not what is compared
            found.setdefault(name, []).append(timed(read, numbers))
        stepped = timed(plain_h5py(dataset, kept_open=True, step=True), numbers[:3])
        found.setdefault("h5py kept open, with a step", []).append(stepped)
        content = {"numbers": numbers, "windows": len(dataset), "frames": WINDOW.frames, "frameskip": WINDOW.frameskip}
        content |= {"warm": True, "fps": arguments.fps}
        if arguments.client:
            for label, file, count in (("Lance", flat.with_suffix(".lance"), 100), ("LeRobot", lerobot, 30)):
                few = numbers[: min(count, arguments.windows)]
                places = [dataset.table.place(n) for n in few]
                plan.write_text(json.dumps(content | {"numbers": few, "places": places}))
                row = timed_client(arguments.client, file, plan, PLAIN)
                found.setdefault(OTHERS[label], []).extend(row)
            plan.write_text(json.dumps(content))
            rows = timed_client(arguments.client, flat, plan, PLAIN, CUES)
            for label, row in zip(("", ", targets"), rows, strict=True):
                found.setdefault(f"{HDF5}{label}", []).append(row)
        for name, loaded in (
            ("PacketLoader", dataset),
            ("PacketLoader, cues prepared", by_name["PacketDataset, cues prepared"]),
        ):
            for workers in (0, 2):
                found.setdefault(f"{name}, {workers} workers", []).append(timed_loader(loaded, workers, 3.0))
    if arguments.cold:
        cold = np.random.default_rng(99).integers(0, len(dataset), arguments.windows // 2).tolist()
        forget(folder.parent)
        found["cold: PacketDataset"] = [timed(readers[0][2], cold)]
        forget(folder.parent)
        prepared = by_name["PacketDataset, cues prepared"]
        found["cold: PacketDataset, cues prepared"] = [timed(prepared.__getitem__, cold)]
        forget(folder.parent)
        found["cold: h5py kept open, sliced"] = [timed(plain_h5py(dataset, kept_open=True, step=False), cold)]
        if arguments.client:
            plan.write_text(json.dumps(json.loads(plan.read_text()) | {"numbers": cold, "warm": False}))
            forget(folder.parent)
            found[f"cold: {HDF5}"] = timed_client(arguments.client, flat, plan, PLAIN)
            forget(folder.parent)
            found[f"cold: {HDF5}, targets"] = timed_client(arguments.client, flat, plan, CUES)
    return found


def measure_many(folder: Path, count: int, windows: int, depth: str) -> dict[str, list[tuple[float, float]]]:
    """Over `count` packets: links to those there are, so that what is measured is the number and not the disk.

    Their index is copied from that of the files linked to, and their prepared targets are links: looking at 100,000
    packets takes most of an hour, once, and their targets 140 GB.
    """
    many = folder.parent / "many"
    packets = sorted(folder.glob("*.h5"))
    looked_at = dict(zip(packets, index_packets(packets, folder / FOLDER / "index")[0], strict=True))
    names = {"pixels", "action", "action_valid", "state"}.union(*(target.needs for target in targets(depth)))
    entries = []
    for number in range(count):
        link, packet = many / f"{number % 1000:03}" / f"episode_{number:06}.h5", packets[number % len(packets)]
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(packet, link)
        entries.append(replace(looked_at[packet], path=link).only(names))
        entries[-1].facts.update(looked_at[packet].facts)
    _save(many / FOLDER / "index", entries)
    first = PacketDataset(packets[0], WINDOW, targets(depth), reading=PREPARED)
    for target in filter(lambda target: target.per_frame, first.targets):
        theirs = PreparedTarget(folder / FOLDER, target, first.sizes, 1)
        ours = PreparedTarget(many / FOLDER, target, first.sizes, 1)
        for number, entry in enumerate(entries):
            file = ours._file(entry)
            file.parent.mkdir(parents=True, exist_ok=True)
            os.link(theirs._file(looked_at[packets[number % len(packets)]]), file)
    del entries
    found: dict[str, list[tuple[float, float]]] = {}
    for cues, reading, chosen in (("", Reading(), ()), (", cues prepared", PREPARED, targets(depth))):
        started = time.perf_counter()
        dataset = PacketDataset(many, WINDOW, chosen, reading=reading)
        opened = time.perf_counter() - started
        size = (many / FOLDER / "index").stat().st_size
        print(
            f"{count} packets{cues}: opened in {opened:.1f} s, index {size / 1e6:.0f} MB of {len(names)} datasets each"
        )
        numbers = np.random.default_rng(5).integers(0, len(dataset), windows).tolist()
        first_touch, warm = (timed(dataset.__getitem__, numbers) for _ in range(2))
        descriptors = len(os.listdir("/proc/self/fd"))
        print(f"open files after {2 * windows} windows: {dataset.open_files} packets, {descriptors} in the process")
        found |= {f"PacketDataset, {count} packets{cues}, never read before": [first_touch]}
        found |= {f"PacketDataset, {count} packets{cues}": [warm]}
    return found


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]


def show(found: dict[str, list[tuple[float, float]]]) -> None:
    """The medians as a table to be pasted, and the issue's targets beside what was reached."""
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    print("\n| reader | windows/s | ms, wall | ms, processor | times its HDF5 reader, wall | processor |")
    print("| --- | --- | --- | --- | --- | --- |")
    ratios: dict[str, float] = {}
    for name, (wall, cpu) in medians.items():
        key = HDF5 + (", targets" if "cues" in name else "")
        base = medians.get(f"cold: {key}" if name.startswith("cold") else key)
        told = f"{base[0] / wall:.2f} | {base[1] / cpu:.2f}" if base else " | "
        ratios |= {name: base[0] / wall} if base else {}
        print(f"| {name} | {1 / wall:.0f} | {wall * 1e3:.3f} | {cpu * 1e3:.3f} | {told} |")
    if ratios:
        print()
    for reader, ratio in ratios.items():
        wanted = next((times for ending, times in TARGETS.items() if reader.endswith(ending)), None)
        if wanted and reader.startswith("PacketDataset"):
            print(f"wanted {wanted} times its HDF5 reader: {reader} has {ratio:.1f}")


def sample_packets(folder: Path) -> list[Path]:
    cuepack = [sys.executable, "-m", "flows.cli"]
    subprocess.run([*cuepack, "sample", "--out", str(folder / "sample")], check=True)
    source = folder / "sample" / "bridge_raw"
    command = [
        *cuepack,
        "extract",
        str(source),
        "--out",
        str(folder / "out"),
        "--profile",
        "cpu",
        "--no-prefect",
        "--quiet",
    ]
    subprocess.run(command, check=True)
    return sorted((folder / "out" / "packets").rglob("*.h5"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packets", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--windows", type=int, default=1000, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--many", type=int, default=0, help="also over that many packets")
    parser.add_argument("--client", type=Path, help="a Python with stable-worldmodel")
    parser.add_argument("--cold", action="store_true", help="also with the page cache dropped")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        given = arguments.packets
        packets = sorted(given.rglob("*.h5")) if given else sample_packets(Path(work))
        if not packets:
            parser.error(f"no packets in {given}")
        with Packet(packets[0]) as packet:
            arguments.fps = float(packet.attributes["fps"])
            depth = next(name for name in packet.modalities if name in ("depth/relative", "depth/metric"))
        folder = Path(work) / "packets"
        copied(packets, arguments.count, folder)
        frames = sum(Packet(path).n_frames for path in folder.glob("*.h5"))
        size = sum(path.stat().st_size for path in folder.glob("*.h5"))
        machine = f"{time.strftime('%F')}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        print(f"{machine}; {arguments.count} packets, {frames} frames, {size / frames / 1e3:.0f} kB a frame")
        found = measure(folder, depth, arguments)
        many = measure_many(folder, arguments.many, arguments.windows, depth) if arguments.many else {}
        show(found | many)
        sizes = {"packets, all cues": sum(path.stat().st_size for path in folder.glob("*.h5"))}
        for name in ("flat.h5", "flat.lance", "lerobot"):
            sizes[name] = sum(path.stat().st_size for path in _files(Path(work) / name))
        print("\nkB a frame: " + ", ".join(f"{name} {size / frames / 1e3:.0f}" for name, size in sizes.items() if size))


if __name__ == "__main__":
    main()
