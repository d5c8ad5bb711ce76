"""A small output directory to look at, and the viewer served from a thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from flows.output.manifest import Manifest, Row
from flows.viewing.library import Library
from flows.viewing.server import make_app
from tests.packers.examples import write_example

SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
INSTRUCTIONS = ("put the cup on the plate", "pick up the fork", "fold the cloth")


def write_output(root: Path, count: int = 3, frames: int = 40, **size: int) -> dict[str, Row]:
    """`count` packets ep_0, ep_1, ..., a failed, a filtered (with a hostile instruction) and a damaged episode."""
    rows: dict[str, Row] = {}
    for index in range(count):
        name = f"ep_{index}"
        path = root / "packets" / f"0{index}" / f"{name}.h5"
        path.parent.mkdir(parents=True)
        write_example(path.parent, name, frames, **size)
        rows[name] = {
            "episode_id": name,
            "episode_index": index,
            "status": "done",
            "packet": path.relative_to(root).as_posix(),
            "n_frames": frames,
            "language_instruction": INSTRUCTIONS[index % len(INSTRUCTIONS)],
            "score": 0.9 - 0.3 * index,
            "score_task": 1.0 if index else 0.5,
            "quality_masks": "pass" if index else "warn",
            "tags": "no-grasp" if index else "no-grasp;mask-flicker",
        }
    damaged = root / "packets" / "ff" / "damaged.h5"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"CUEPACK1" + b"0" * 4000)
    for index, (name, more) in enumerate(
        {
            "failed": {"status": "failed", "stage": "source", "error": "im_3.jpg cannot be decoded"},
            "filtered": {"status": "filtered", "language_instruction": SCRIPT},
            "damaged": {"status": "done", "packet": "packets/ff/damaged.h5", "n_frames": 4},
        }.items()
    ):
        rows[name] = {"episode_id": name, "episode_index": count + index, "tags": "", **more}
    Manifest(root).write(rows.values())
    return rows


@contextmanager
def served(library: Library, other: Library | None = None) -> Iterator[str]:
    """Address of the running viewer."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        # A browser that keeps a connection open must not keep the server.
        config = uvicorn.Config(
            make_app(library, other), log_level="error", lifespan="off", ws="none", timeout_graceful_shutdown=5
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()
