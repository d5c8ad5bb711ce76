"""A short run of the machine that looks for wrong data, the same each time; `make soak` runs it for long."""

from pathlib import Path

import pytest

from tests.flows.run.soaking import World, soak, tiny_engine


def test_whatever_is_done_to_a_source_and_a_run_the_next_run_is_right():
    assert soak(60, 7, length=20) >= 60


def test_the_oracle_notices_a_packet_of_the_files_of_before(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.run.shard.row_fits_packet", lambda row, stamp, mark: mark is not None)
    with tiny_engine():
        world = World(tmp_path, None)
        world.write("e0", "100")
        world.run(world.plan())
        world.check()
        world.write("e0", "200")
        world.run(world.plan())
        with pytest.raises(AssertionError, match="e0"):
            world.check()
    assert Path(world.out).exists()
