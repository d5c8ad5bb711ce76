import hashlib
import random
import signal
import subprocess
import sys
import time

import pytest

from flows.output.manifest import COST_PREFIXES, Manifest
from flows.output.store import LEFTOVERS, Store
from flows.sources.sample import write_sample
from packers.validate import validate_packet
from tests.flows.run.crashing import kill_after, run_batch, start_batch

KILLS = 25
CUEPACK = [sys.executable, "-c", "from flows.cli import main; main()"]


def digests(root):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (root / "out/packets").glob("*/*.h5")}


def leftovers(root):
    patterns = (*LEFTOVERS, ".*.tmp", ".work/stages/*/*/*")
    return [path for pattern in patterns for path in (root / "out").glob(pattern)]


def lasting(root):
    """The manifest without what differs from run to run."""
    rows = Manifest(root / "out").rows()
    volatile = (*COST_PREFIXES, "stages_computed", "source_stamp", "packed_from", "recorded_at")
    return {name: {key: row[key] for key in row if not key.startswith(volatile)} for name, row in rows.items()}


def no_packet_is_torn(root):
    return all(validate_packet(path) == [] for path in (root / "out/packets").glob("*/*.h5"))


@pytest.mark.slow
def test_killed_at_random_points_a_batch_ends_with_the_bytes_of_an_undisturbed_one(tmp_path):
    started = time.monotonic()
    run_batch(tmp_path / "whole")
    duration = time.monotonic() - started
    expected = digests(tmp_path / "whole")
    assert len(expected) == 6
    rng = random.Random(8)
    kills, batches, partial, stale = 0, 0, 0, 0
    while kills < KILLS:
        root = tmp_path / f"killed-{batches}"
        batches += 1
        while kills < KILLS:
            process, _ = start_batch(root)
            if not kill_after(process, rng.uniform(0, 0.6 * duration)):
                break
            kills += 1
            partial += len(digests(root)) < len(expected)
            stale += any(".tmp-" in path.name for path in leftovers(root))
            assert no_packet_is_torn(root)
            assert digests(root).items() <= expected.items()
        rows = run_batch(root)
        assert {row["status"] for row in rows} == {"done"}
        assert digests(root) == expected
        assert leftovers(root) == []
        assert lasting(root) == lasting(tmp_path / "whole")
    print(f"{kills} kills over {batches} batches; {partial} left work undone, {stale} left half-written files")
    assert partial > KILLS / 2


@pytest.mark.slow
def test_the_command_killed_half_way_goes_on_where_it_was(tmp_path):
    write_sample(tmp_path / "sample")
    options = ["--no-prefect", "-q", "--set", "masks.backend=recorded", "--set", "tracks.backend=off"]
    extract = [*CUEPACK, "extract", str(tmp_path / "sample" / "bridge_raw"), *options, "--set", "run.shard_size=1"]
    subprocess.run([*extract, "--out", tmp_path / "whole" / "out"], check=True, capture_output=True)
    root = tmp_path / "killed"
    with subprocess.Popen([*extract, "--out", root / "out"], stdout=subprocess.DEVNULL) as batch:
        while batch.poll() is None and not digests(root):
            time.sleep(0.02)
        batch.kill()
    assert batch.returncode == -signal.SIGKILL
    assert no_packet_is_torn(root)
    assert 0 < len(digests(root)) < 4
    subprocess.run([*extract, "--out", root / "out"], check=True, capture_output=True)
    assert digests(root) == digests(tmp_path / "whole")
    assert leftovers(root) == []


@pytest.mark.slow
def test_two_batches_at_once_do_no_episode_twice(tmp_path):
    started = [start_batch(tmp_path) for _ in range(2)]
    rows = [connection.recv() for _, connection in started]
    for process, _ in started:
        process.join()
    names = {row["episode_id"] for row in rows[0]}
    assert len(digests(tmp_path)) == len(names) == 6
    for name in names:
        found = [row for batch in rows for row in batch if row["episode_id"] == name]
        packed = [row for row in found if "pack" in (row.get("stages_computed") or "").split(";")]
        assert len(packed) == 1
        assert all(row["status"] in ("done", "busy") for row in found)
    assert {row["status"] for row in Manifest(tmp_path / "out").rows().values()} == {"done"}


def test_what_a_killed_run_left_half_written_goes_unless_a_run_is_on(tmp_path):
    store = Store(tmp_path / "out")
    left = [tmp_path / "out/packets/ab/.tmp-0-1", tmp_path / "out/.work/stages/ab/e/.tmp-0-2"]
    for path in left:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"half")
    with store.in_use():
        assert not any(path.exists() for path in left)
        left[0].write_bytes(b"half")
        with Store(tmp_path / "out").in_use():
            assert left[0].exists()
    with store.in_use():
        assert not left[0].exists()


def test_an_output_directory_that_cannot_be_written_is_said_so(tmp_path):
    (tmp_path / "out").write_text("a file")
    from extractors.errors import OutputError

    with pytest.raises(OutputError, match="cannot be written"), Store(tmp_path / "out").in_use():
        pass
