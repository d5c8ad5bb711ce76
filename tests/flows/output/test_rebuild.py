import json

import pandas as pd
import pytest
from click.testing import CliRunner

from extractors.errors import ConfigError, PacketError
from flows.cli import main
from flows.output.directory import OutputDirectory
from flows.output.manifest import COST_PREFIXES, Manifest
from flows.output.rebuild import packet_row, rebuild_manifest
from flows.output.store import Store
from flows.run.carry_out import carry_out, run_shard_plainly
from tests.flows.batches import Silent, array_plan
from tests.flows.run.crashing import SETTINGS
from tests.support import ArraySource

COSTS = (*COST_PREFIXES, "stages_computed", "source_stamp", "packed_from", "recorded_at")


@pytest.fixture
def packed(tmp_path):
    out = tmp_path / "out"
    source = ArraySource(tmp_path / "in", count=3, broken=(1,))
    assert carry_out(array_plan(source, out, SETTINGS), Silent(), run_shard_plainly).exit_code == 1
    return out


def packet(out, number):
    return Store(out).packet_path(f"square_{number}")


def test_rows_from_packets_alone_say_all_but_costs_and_the_source_s_times(packed):
    before = Manifest(packed).rows()
    for path in (packed / "manifest.parquet", packed / "manifest.csv"):
        path.unlink()
    rebuilt = rebuild_manifest(OutputDirectory.open(packed))
    assert sorted(rebuilt.made) == ["square_0", "square_2"]
    after = Manifest(packed).rows()
    for name in rebuilt.made:
        wanted = {key: value for key, value in before[name].items() if not key.startswith(COSTS) and value is not None}
        assert {key: after[name][key] for key in wanted} == wanted
    assert any("seconds" in sentence for sentence in rebuilt.unknown())


def test_rows_of_failed_episodes_and_costs_stay_where_the_old_manifest_has_them(packed):
    before = Manifest(packed).rows()
    rebuilt = rebuild_manifest(OutputDirectory.open(packed))
    assert Manifest(packed).rows() == before
    assert sorted(rebuilt.kept) == ["square_0", "square_1", "square_2"]
    assert rebuilt.unknown() == []


def test_an_unreadable_manifest_is_set_aside_and_what_it_held_is_named(packed):
    (packed / "manifest.parquet").write_bytes(b"PAR1 no more")
    rebuilt = rebuild_manifest(OutputDirectory.open(packed))
    assert rebuilt.aside is not None
    assert rebuilt.aside.read_bytes() == b"PAR1 no more"
    assert list(Manifest(packed).rows()) == ["square_0", "square_2"]
    assert any("failed or were filtered" in sentence for sentence in rebuilt.unknown())


def test_damaged_and_missing_packets_are_not_listed(packed):
    damaged = packet(packed, 0)
    content = bytearray(damaged.read_bytes())
    content[-100] ^= 1
    damaged.write_bytes(content)
    packet(packed, 2).unlink()
    rebuilt = rebuild_manifest(OutputDirectory.open(packed))
    assert list(rebuilt.damaged) == [damaged.relative_to(packed).as_posix()]
    assert sorted(rebuilt.lost) == ["square_0", "square_2"]
    assert list(Manifest(packed).rows()) == ["square_1"]


def test_a_packet_under_another_episode_s_name_is_refused(packed):
    wrong = packet(packed, 0).with_name("square_9.h5")
    packet(packed, 0).rename(wrong)
    with pytest.raises(PacketError, match="square_0"):
        packet_row(packed, wrong)


def test_after_a_rebuild_nothing_is_computed_again(packed, tmp_path):
    Manifest(packed).parquet.unlink()
    rebuild_manifest(OutputDirectory.open(packed))
    source = ArraySource(tmp_path / "in", count=3, broken=(1,))
    plan = array_plan(source, packed, SETTINGS)
    rows = {row["episode_id"]: row for row in carry_out(plan, Silent(), run_shard_plainly).rows}
    assert rows["square_0"]["stages_computed"] == ""
    assert plan.work.run_key() == rows["square_0"]["run_key"] == packet_row(packed, packet(packed, 0))["run_key"]


def test_the_camera_that_was_asked_for_is_told_from_the_id(packed):
    (packed / "run.json").write_text(json.dumps({"camera": "0"}))
    row = packet_row(packed, packet(packed, 0))
    assert row["camera_asked"] is None
    assert row["source_id"] == "square_0"


def test_the_command_counts_and_fails_on_damage(packed):
    packet(packed, 2).write_bytes(b"short")
    result = CliRunner().invoke(main, ["manifest", "rebuild", str(packed), "--json"])
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert said["counts"] == {"kept": 2, "made": 0, "damaged": 1, "lost": 1}
    assert len(pd.read_csv(packed / "manifest.csv")) == 2


def test_a_folder_that_is_no_output_directory_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="neither packets nor a manifest"):
        rebuild_manifest(OutputDirectory.open(tmp_path))


@pytest.mark.parametrize("damage", ["cut", "remove"])
def test_a_filtered_episode_s_packet_of_before_is_listed_only_while_it_is_whole(packed, tmp_path, damage):
    source = ArraySource(tmp_path / "in", count=3, broken=(1,))
    hopeless = [*SETTINGS, "select.min_score=0.99"]
    carry_out(array_plan(source, packed, hopeless), Silent(), run_shard_plainly)
    assert Manifest(packed).rows()["square_0"]["packet"] is not None
    path = packet(packed, 0)
    path.write_bytes(path.read_bytes()[:1000]) if damage == "cut" else path.unlink()
    for _ in range(2):
        rebuild_manifest(OutputDirectory.open(packed))
        row = Manifest(packed).rows()["square_0"]
        assert (row["status"], row["packet"], row["sha256"]) == ("filtered", None, None)
    assert Store(packed).packet_columns("square_0")["packet"] is None
