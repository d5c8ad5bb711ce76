"""How quick the viewer is: first paint of the overview, and stepping through frames, in headless chromium.

    python -m tests.benchmarks.viewer [--rows 5000 20000] [--frames 2000]

The targets of the project: first paint of 5,000 rows under 2 s, a frame step under 50 ms, on two cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from flows.output.manifest import Manifest
from flows.viewing.library import Library
from tests.flows.viewing.served import served
from tests.packers.examples import write_example

PAINT_TARGET_S, STEP_TARGET_MS = 2.0, 50.0


def write_rows(root: Path, count: int, packet: Path) -> None:
    """A manifest like that of a real batch; every packet is the same file."""
    rng = np.random.default_rng(0)
    tags = ["no-grasp", "mask-flicker", "low-motion", "depth-drift", "tracks-lost"]
    rows = []
    for index in range(count):
        scores = rng.beta(4, 2, 5).round(6)
        row = {
            "episode_id": f"bridge_data_v2_toykitchen_{index:05d}_raw_traj_group0_traj{index % 40}",
            "episode_index": index,
            "status": "done" if index % 20 else "failed",
            "error": None if index % 20 else "im_12.jpg cannot be decoded; fetch the episode again",
            "packet": packet.relative_to(root).as_posix() if index % 20 else None,
            "sha256": f"{index:064x}",
            "camera": "images0",
            "n_frames": int(rng.integers(10, 60)),
            "language_instruction": f"put the {rng.choice(['cup', 'fork', 'pot', 'towel'])} {index} on the plate",
            "score": float(scores.mean()),
            "tags": ";".join(sorted(rng.choice(tags, rng.integers(0, 3), replace=False))),
            "run_key": "f" * 64,
            "source_stamp": f"{index * 7:064x}",
        }
        parts = zip(("task", "length", "displacement", "mask", "depth"), scores, strict=True)
        row |= {f"score_{name}": float(value) for name, value in parts}
        row |= {f"quality_{name}": str(rng.choice(["pass", "warn", "fail"])) for name in ("masks", "depth", "tracks")}
        row |= {f"seconds_{stage}": float(rng.random()) for stage in ("source", "masks", "depth", "tracks", "pack")}
        rows.append(row)
    Manifest(root).write(rows)


def first_paint(browser: Browser, address: str) -> tuple[float, float]:
    """Seconds until a person sees something, and until all cards of the first page are there."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    started = time.perf_counter()
    page.goto(address)
    page.wait_for_selector("body.ready", state="attached")
    ready = time.perf_counter() - started
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
    page.close()
    return paint, ready


def steps(page: Page, count: int) -> list[float]:
    """Milliseconds of single steps, from the key to the last panel drawn, the frame painted included."""
    return list(
        page.evaluate(
            """async (count) => {
                const took = [];
                for (let i = 0; i < count; i++) {
                    const started = performance.now();
                    await cuepack.player.go(cuepack.player.frame + 1);
                    const drawn = performance.now();
                    await new Promise(requestAnimationFrame);
                    took.push(drawn - started);
                }
                return took;
            }""",
            count,
        )
    )


def jumps(page: Page, frames: int) -> list[float]:
    """Milliseconds of jumps to frames whose pictures nobody has asked for yet."""
    return list(
        page.evaluate(
            """async (frames) => {
                const took = [];
                for (let i = 1; i <= 12; i++) {
                    const started = performance.now();
                    await cuepack.player.go((i * 149) % frames);
                    took.push(performance.now() - started);
                }
                return took;
            }""",
            frames,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[5000, 20000])
    parser.add_argument("--frames", type=int, nargs="+", default=[40, 2000])
    options = parser.parse_args()
    executable = shutil.which("chromium")
    if executable is None:
        raise SystemExit("chromium is not installed (apt-get install chromium)")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for count in options.rows:
            root = Path(folder) / str(count)
            packet = root / "packets" / "00" / "clip.h5"
            packet.parent.mkdir(parents=True)
            write_example(packet.parent, "clip", 20, height=224, width=224)
            write_rows(root, count, packet)
            with served(Library(root)) as address:
                runs = [first_paint(browser, address) for _ in range(3)]
            cold, warm = runs[0], min(runs[1:])
            print(
                f"overview, {count} rows: first paint {cold[0]:.2f} s, cards {cold[1]:.2f} s cold "
                f"({PAINT_TARGET_S / cold[1]:.1f} times under {PAINT_TARGET_S:g} s), {warm[1]:.2f} s again"
            )
        for frames in options.frames:
            root = Path(folder) / f"clip{frames}"
            packet = root / "packets" / "00" / "clip.h5"
            packet.parent.mkdir(parents=True)
            write_example(packet.parent, "clip", frames, height=224, width=224)
            with served(Library(root)) as address:
                page = browser.new_page(viewport={"width": 1920, "height": 1080})
                started = time.perf_counter()
                page.goto(f"{address}episode.html?id=clip")
                page.wait_for_selector("body.ready", timeout=120_000)
                opened = time.perf_counter() - started
                took = steps(page, min(frames - 1, 39))
                print(
                    f"episode of {frames} frames, 7 panels: open {opened:.2f} s; "
                    f"step median {statistics.median(took):.1f} ms "
                    f"({STEP_TARGET_MS / statistics.median(took):.1f} times under {STEP_TARGET_MS:g} ms), "
                    f"95th percentile {np.percentile(took, 95):.1f} ms, worst {max(took):.1f} ms"
                )
                if frames > 200:
                    took = jumps(page, frames)
                    print(f"  jump to frames not asked for before: median {statistics.median(took):.0f} ms")
                page.close()
        browser.close()


if __name__ == "__main__":
    main()
