"""`cuepack study` as typed: the flow, going on, a new condition, what it says, and the tags that it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.cli import main
from flows.output.selection import read_candidates
from flows.output.study_tags import STUDY_TAGS, read_study_tags, write_study_tags
from tests.flows.study.worlds import write_toy

QUICK = ["--side", "16", "--epochs", "1", "--horizon", "2", "--held-share", "0.3", "--batch", "8", "--workers", "1"]


def run(*arguments):
    return CliRunner().invoke(main, ["study", *map(str, arguments)])


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory of toy packets with a manifest."""
    folder = tmp_path_factory.mktemp("toys")
    write_toy(folder / "packets" / "x", 7, frames=10, noise=10.0)
    return folder


@pytest.fixture(scope="module")
def done(directory, tmp_path_factory):
    """A study of it, carried out as a flow."""
    out = tmp_path_factory.mktemp("study")
    result = run(directory, "--out", out, "--conditions", "dataset:state", "--controls", "", "--seeds", 2, *QUICK)
    assert result.exit_code == 0, result.output
    return out, result.output


def test_a_study_ends_with_its_table_and_its_report(done):
    out, said = done
    assert "| dataset:state | 2 |" in said
    assert "4 trained" in said
    assert (out / "report" / "index.html").is_file()
    results = json.loads((out / "comparison.json").read_text())
    assert [each["condition"] for each in results] == ["A", "dataset:state"]
    assert results[0]["errors"]["one_step"] > 0


def test_a_study_that_is_repeated_trains_nothing_and_a_new_condition_only_itself(directory, done):
    out, _ = done
    plain = ["--out", out, "--controls", "", "--no-prefect", *QUICK]
    again = run(directory, *plain, "--conditions", "dataset:state", "--seeds", 2)
    assert again.exit_code == 0, again.output
    assert "4 before -> " in again.output
    assert " trained, " not in again.output
    more = run(directory, *plain, "--conditions", "dataset:state,G", "--seeds", 2, "--json", "--quiet")
    answer = json.loads(more.stdout)
    assert answer["counts"] | {"trained": 2, "before": 4} == answer["counts"]
    assert [each["condition"] for each in answer["results"]] == ["A", "dataset:state", "G"]


def test_a_dry_run_says_what_would_be_done_and_trains_nothing(directory, tmp_path):
    result = run(directory, "--out", tmp_path / "s", "--conditions", "G", "--dry-run", "--json", *QUICK)
    answer = json.loads(result.stdout)
    # A, G, G-shuffled and nothing, three seeds each.
    assert answer["counts"] == {"runs": 12, "todo": 12}
    assert answer["steps"] > 0
    assert answer["minutes"] > 0
    assert not (tmp_path / "s" / "study.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--conditions", "Z"], "no condition 'Z'"),
        (["--conditions", "B", "--sizes", "x"], "--sizes wants numbers"),
        (["--sizes", "1000"], "are left beside the held-out"),
        (["--profile", "gpu"], "CUDA"),
        (["--side", "17"], "patches"),
    ],
)
def test_what_cannot_be_studied_ends_with_a_sentence(directory, tmp_path, arguments, said):
    result = run(directory, "--out", tmp_path / "s", *arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_an_engine_beside_local_needs_prefect(directory, tmp_path):
    arguments = ["--out", tmp_path / "s", "--conditions", "A", "--controls", "", *QUICK]
    result = run(directory, *arguments, "--no-prefect", "--engine", "dask")
    assert result.exit_code == 2
    assert "goes through Prefect" in result.output


def test_runs_that_fail_are_listed_and_the_others_are_kept(directory, tmp_path, monkeypatch):
    from extractors.errors import CuepackError
    from flows.study import work

    made = work.work_in_process

    def broken(out: Path, one, device="cpu", threads=1):
        if one.condition == "G":
            raise CuepackError("the disk is full")
        return made(out, one, device, threads)

    monkeypatch.setattr(work, "work_in_process", broken)
    arguments = ["--out", tmp_path / "s", "--conditions", "G", "--controls", "", "--seeds", 1, *QUICK]
    result = run(directory, *arguments, "--no-prefect")
    assert result.exit_code == 1
    assert "failed  G seed 0: the disk is full" in result.output
    assert "1 trained, 1 failed" in result.output


def test_tags_of_studies_are_kept_side_by_side_and_found_by_select(tmp_path):
    write_study_tags(tmp_path, {"a": ("tight-tie",), "b": ("static-dominates",)})
    write_study_tags(tmp_path, {"b": ("models-beat-static", "tight-tie")})
    assert read_study_tags(tmp_path) == {"a": ("tight-tie",), "b": ("models-beat-static", "tight-tie")}


def test_study_tags_that_cannot_be_read_are_said(tmp_path):
    from extractors.errors import ConfigError

    (tmp_path / STUDY_TAGS).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="study-tags"):
        read_study_tags(tmp_path)
    (tmp_path / STUDY_TAGS).write_text("x,y\n1,2\n")
    with pytest.raises(ConfigError, match="wanted columns"):
        read_study_tags(tmp_path)


def test_select_takes_and_leaves_tags(tmp_path):
    rows = "episode_id,score,tags\na,0.5,no-grasp\nb,0.6,\nc,0.7,no-grasp;long\n"
    table = tmp_path / "scores.csv"
    table.write_text(rows)
    assert [c.tags for c in read_candidates(table)] == [("no-grasp",), (), ("no-grasp", "long")]
    chosen = CliRunner().invoke(main, ["select", str(table), "--min-score", "0", "--with-tag", "no-grasp", "--json"])
    assert [e["episode_id"] for e in json.loads(chosen.stdout)["episodes"]] == ["c", "a"]
    left = CliRunner().invoke(main, ["select", str(table), "--min-score", "0", "--without-tag", "long", "--json"])
    assert [e["episode_id"] for e in json.loads(left.stdout)["episodes"]] == ["b", "a"]
    none = CliRunner().invoke(main, ["select", str(table), "--min-score", "0", "--with-tag", "x"])
    assert none.exit_code == 2
    assert "no-grasp (2)" in none.output
