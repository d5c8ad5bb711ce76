import pytest

from flows.output.costs import TABLE_HEAD, closing_line, cost_table, run_costs, waits
from flows.output.manifest import Manifest


def row(index, **costs):
    return {"episode_id": f"e{index}", "episode_index": index, "status": "done", "n_frames": 100} | costs


CPU = [
    row(0, seconds_source=1.0, seconds_tracks=6.0, stored_bytes_source=2_000_000, peak_mb_tracks=300.0),
    row(1, seconds_source=1.0, seconds_tracks=4.0, waited_cpu_source=0.5, peak_mb_tracks=400.0),
    row(2),
]
DEVICE = [
    row(0, seconds_depth=2.0, device_seconds_depth=1.5, waited_device_depth=3.0, padding_depth=0.2, seconds_pack=1.0),
    row(1, seconds_depth=1.0, device_seconds_depth=0.5, padding_depth=0.0, waited_memory_depth=1.0, seconds_pack=0.5),
]


def test_what_was_not_worked_on_counts_nothing():
    costs = run_costs(CPU)
    assert costs.frames == 200
    assert [(stage.stage, stage.episodes, stage.seconds) for stage in costs.stages] == [
        ("tracks", 2, 10.0),
        ("source", 2, 2.0),
    ]
    assert costs.stages[0].peak_mb == 400.0


def test_a_run_on_cpus_ends_with_the_slowest_stages():
    line = closing_line(run_costs(CPU), seconds=8.0, workers=2)
    assert line == "costs: 60.0 s of work per 1,000 frames, 75% of 2 workers' time; slowest: tracks 83%, source 17%"


def test_a_run_on_a_device_ends_with_its_seconds_and_why_it_was_idle():
    line = closing_line(run_costs(DEVICE), seconds=4.0, workers=2)
    assert line == (
        "costs: 10.0 device-seconds per 1,000 frames; the device was idle 50% of 4 s, the CPU at pack 60%, depth 40%; "
        "episodes waited most for a device"
    )
    assert waits(run_costs(DEVICE)) == {"a device": 3.0, "memory": 1.0}


def test_padding_is_weighted_by_the_time_it_cost():
    depth = run_costs(DEVICE).stages[0]
    assert depth.padding == pytest.approx(0.2 * 1.5 / 2.0)
    assert depth.cpu_s == pytest.approx(1.0)


def test_nothing_done_is_said():
    assert closing_line(run_costs([row(0)]), seconds=1.0, workers=1) == "costs: no frame was worked on"


def test_the_same_costs_come_back_from_the_manifest(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.write([*CPU, *DEVICE[1:]])
    kept = run_costs(list(manifest.rows().values()))
    assert cost_table(kept) == cost_table(run_costs([CPU[0], DEVICE[1], CPU[2]]))
    assert all(len(line) == len(TABLE_HEAD) for line in cost_table(kept))
    assert (tmp_path / "manifest.csv").read_text().count("2000000") == 1
