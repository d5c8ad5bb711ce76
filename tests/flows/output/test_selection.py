import csv
import hashlib
import json
import random

import pandas as pd
import pytest
from click.testing import CliRunner

from extractors.errors import ConfigError
from flows.cli import main
from flows.output import selection as selection_module
from flows.output.annotations import Annotation, write_annotation
from flows.output.directory import OutputDirectory
from flows.output.manifest import Manifest
from flows.output.selection import (
    Candidate,
    Pick,
    choose,
    moving,
    rank_stability,
    read_candidates,
    read_selection,
    selection_file,
    write_selection,
)
from flows.run.carry_out import carry_out, run_shard_plainly
from tests.flows.batches import Silent, array_plan
from tests.support import ArraySource

QUICK = ("masks.backend=recorded", "depth.backend=off", "tracks.backend=off", "packet.height=24", "packet.width=32")


def clips(count=20, tasks=4):
    """Clips whose score falls with their number, `tasks` tasks in turn."""
    return [Candidate(f"clip_{i:03}", 1 - i / 100, f"pick up item {i % tasks}", f"clip_{i:03}") for i in range(count)]


def test_clips_are_kept_by_how_long_they_move():
    still, brief, long, old = (
        Candidate(n, 0.5, values=v)
        for n, v in zip(
            "abcd", [{"motion_active_s": 0.0}, {"motion_active_s": 1.5}, {"motion_active_s": 9.0}, {}], strict=True
        )
    )
    kept = moving([still, brief, long, old], {"motion_active_s": 1.5})
    assert [c.episode_id for c in kept] == ["b", "c"]
    with pytest.raises(ConfigError, match="no episode has 10 s or more in motion_active_s; the most has 9"):
        moving([brief, long], {"motion_active_s": 10})
    with pytest.raises(ConfigError, match="no episode has a number in motion_object_s"):
        moving([brief, long], {"motion_object_s": 1})


def test_select_takes_the_least_motion_from_the_manifest(tmp_path):
    rows = "episode_id,score,language_instruction,motion_active_s\na,0.9,x,0.2\nb,0.8,x,3\n"
    (tmp_path / "scores.csv").write_text(rows)
    code, output = run(tmp_path / "scores.csv", "--random", 1, "--min-active", 1, "--json")
    assert code == 0
    assert [e["episode_id"] for e in json.loads(output)["episodes"]] == ["b"]
    code, output = run(tmp_path / "scores.csv", "--random", 1, "--min-moving", 1)
    assert code != 0
    assert "no episode has a number in motion_object_s" in output


def ids(selection):
    return [item.candidate.episode_id for item in selection]


def scores_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=["episode_id", "score", "language_instruction"])
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(*arguments):
    result = CliRunner().invoke(main, ["select", *map(str, arguments)])
    return result.exit_code, result.output


def test_the_best_come_first():
    assert ids(choose(clips(), Pick("top", count=3))) == ["clip_000", "clip_001", "clip_002"]


def test_equal_scores_are_ordered_by_id():
    same = [Candidate(name, 0.5) for name in "cab"]
    assert ids(choose(same, Pick("top", count=3))) == ["a", "b", "c"]


@pytest.mark.parametrize("pick", [Pick("top", 7), Pick("random", 7, seed=3), Pick("min-score", min_score=0.9)])
@pytest.mark.parametrize("by_task", [False, True])
def test_the_file_does_not_depend_on_the_order_of_the_input(tmp_path, pick, by_task):
    pick = Pick(pick.how, pick.count, pick.seed, pick.min_score, by_task)
    shuffled = clips()
    random.Random(1).shuffle(shuffled)
    for name, given in (("a", clips()), ("b", shuffled)):
        write_selection(OutputDirectory.open(tmp_path), name, choose(given, pick))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_draw_is_the_same_everywhere():
    # Written down from a first run: any machine and library version must draw these.
    assert ids(choose(clips(), Pick("random", 4, seed=0))) == ["clip_014", "clip_000", "clip_011", "clip_006"]
    assert ids(choose(clips(), Pick("random", 4, seed=1))) != ["clip_014", "clip_000", "clip_011", "clip_006"]


def test_a_larger_draw_begins_with_the_smaller_one():
    small, large = (ids(choose(clips(), Pick("random", count, seed=5))) for count in (5, 12))
    assert large[:5] == small


def test_a_draw_is_fair():
    drawn = [name for seed in range(400) for name in ids(choose(clips(), Pick("random", 5, seed=seed)))]
    counts = [drawn.count(clip.episode_id) for clip in clips()]
    # 400 draws of 5 of 20: 100 each, standard deviation 8.7; four of them either way.
    assert min(counts) > 65
    assert max(counts) < 135


def test_stratified_clips_come_from_every_task_in_turn():
    chosen = choose([*clips(12), Candidate("rare", 0.1, "open the drawer")], Pick("top", 5, by_task=True))
    tasks = [item.candidate.language_instruction for item in chosen]
    assert len(set(tasks)) == 5
    assert ids(chosen)[0] == "clip_000"


def test_a_threshold_takes_what_reaches_it():
    assert len(choose(clips(), Pick("min-score", min_score=0.95))) == 6


def test_clips_without_a_score_are_drawn_but_never_best():
    given = [Candidate("told", 0.1), Candidate("untold", None)]
    assert ids(choose(given, Pick("top", 1))) == ["told"]
    assert len(choose(given, Pick("random", 2))) == 2
    with pytest.raises(ConfigError, match=r"2 episodes were asked for, but only 1 are there with a score"):
        choose(given, Pick("top", 2))


def test_more_clips_than_there_are_is_an_error_that_says_how_many():
    with pytest.raises(ConfigError, match="only 20 are there"):
        choose(clips(), Pick("random", 21))


def test_an_unreachable_threshold_says_what_the_best_has():
    with pytest.raises(ConfigError, match=r"best has 0\.500"):
        choose([Candidate("a", 0.5)], Pick("min-score", min_score=0.6))


def test_an_episode_keeps_its_split_in_every_selection():
    pool = [Candidate(f"e{i}", 1 - i / 1000) for i in range(500)]
    split = {s.candidate.episode_id: s.split for s in choose(pool, Pick("top", 500))}
    assert 0.06 < sum(side == "val" for side in split.values()) / 500 < 0.14
    again = choose(pool, Pick("random", 100, seed=0))
    assert all(split[s.candidate.episode_id] == s.split for s in again)


def test_a_small_selection_still_has_both_splits():
    for seed in range(30):
        splits = {s.split for s in choose(clips(5), Pick("top", 5, seed=seed))}
        assert splits == {"train", "val"}
    assert {s.split for s in choose(clips(5), Pick("top", 5, val_share=0))} == {"train"}


def test_two_cameras_of_one_episode_share_a_split():
    pool = [Candidate(f"e{i}-{camera}", 0.5, source_id=f"e{i}") for i in range(40) for camera in ("left", "right")]
    split = {s.candidate.episode_id: s.split for s in choose(pool, Pick("top", 80, val_share=0.5))}
    assert all(split[f"e{i}-left"] == split[f"e{i}-right"] for i in range(40))


def test_a_selection_is_read_back_in_its_order(tmp_path):
    selection = choose(clips(), Pick("random", 6, seed=2))
    digest = write_selection(OutputDirectory.open(tmp_path), "s.csv", selection)
    head, _, rest = (tmp_path / "s.csv").read_bytes().partition(b"\n")
    assert head.decode() == f"# sha256={digest}"
    assert hashlib.sha256(rest).hexdigest() == digest
    assert list(read_selection(tmp_path / "s.csv")) == ids(selection)


def test_a_changed_selection_is_refused(tmp_path):
    path = tmp_path / "s.csv"
    write_selection(OutputDirectory.open(path.parent), path.name, choose(clips(), Pick("top", 3)))
    path.write_bytes(path.read_bytes().replace(b"train", b"val", 1))
    with pytest.raises(ConfigError, match="was changed"):
        read_selection(path)


def test_a_plain_list_of_ids_is_a_selection(tmp_path):
    (tmp_path / "s.csv").write_text("episode_id\nb#1\na\n")
    assert read_selection(tmp_path / "s.csv") == ("b#1", "a")


def test_instructions_with_newlines_nul_and_hashes_survive(tmp_path):
    wild = [Candidate("a", 0.5, 'put # the "cup"\nin\x00 the, sink'), Candidate("b", 0.4, "x\r\ny")]
    write_selection(OutputDirectory.open(tmp_path), "s.csv", choose(wild, Pick("top", 2)))
    assert read_selection(tmp_path / "s.csv") == ("a", "b")
    assert (tmp_path / "s.csv").read_bytes().count(b"\n") == 4
    rows = [
        {"episode_id": c.episode_id, "score": c.score, "language_instruction": c.language_instruction} for c in wild
    ]
    assert [c.language_instruction for c in read_candidates(scores_csv(tmp_path / "w.csv", rows))] == [
        c.language_instruction for c in wild
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column episode_id"),
        ("episode_id,score\n", "lists no episode"),
        ("name,score\na,0.5\n", "no column episode_id"),
        ("episode_id,score\na,high\n", "is not a number: 'high'"),
        ("episode_id,score\na,1.5\n", "between 0 and 1"),
        ("episode_id,score\na,inf\n", "between 0 and 1"),
        ("episode_id,score\na,0.5\na,0.6\n", "a occurs more than once"),
        ("episode_id,score\na,0.5,7\n", "does not fit"),
    ],
)
def test_bad_tables_are_refused_with_what_is_wrong(tmp_path, text, says):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_candidates(tmp_path / "s.csv")


def test_a_nan_score_is_no_score(tmp_path):
    (tmp_path / "s.csv").write_text("episode_id,score\na,nan\nb,\nc,0.5\n")
    assert [c.score for c in read_candidates(tmp_path / "s.csv")] == [None, None, 0.5]


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "s.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_selection(tmp_path / "s.csv")


def test_rank_stability_is_kendalls_tau():
    # 10 pairs of which 1 is discordant: tau = (9 - 1) / 10.
    ours = [Candidate(name, score) for name, score in zip("abcde", (0.1, 0.2, 0.3, 0.4, 0.5), strict=True)]
    theirs = [Candidate(name, score) for name, score in zip("abcde", (0.2, 0.1, 0.3, 0.4, 0.5), strict=True)]
    assert rank_stability(ours, theirs)["tau"]["score"] == pytest.approx(0.8)
    assert rank_stability(ours, ours)["tau"]["score"] == 1
    assert rank_stability(ours, [Candidate(c.episode_id, 0.5) for c in ours])["tau"]["score"] is None
    with pytest.raises(ConfigError, match="no episode in common"):
        rank_stability(ours, [Candidate("z", 0.5)])


def test_a_name_cannot_leave_the_directory(tmp_path):
    with pytest.raises(ConfigError, match="--name wants"):
        selection_file("../x")


def manifest(root, scores):
    (root / "packets").mkdir(parents=True)
    rows = []
    for name, score in scores.items():
        (root / "packets" / f"{name}.h5").write_text("")
        rows.append({"episode_id": name, "status": "done", "packet": f"packets/{name}.h5", "score": score})
    table = pd.DataFrame(rows).astype({"score": "Float64"})
    table.to_parquet(root / "manifest.parquet", index=False)
    table.to_csv(root / "manifest.csv", index=False)
    return root


def test_runs_in_another_order_with_more_workers_give_the_same_file(tmp_path):
    source = ArraySource(tmp_path / "in", count=3)
    for name, workers, step in (("a", 1, 1), ("b", 3, -1)):
        plan = array_plan(source, tmp_path / name, QUICK, workers=workers)
        plan.jobs = plan.jobs[::step]
        assert carry_out(plan, Silent(), run_shard_plainly).exit_code == 0
        assert run(tmp_path / name, "--top", 2, "--name", "best")[0] == 0
    assert (tmp_path / "a/selection-best.csv").read_bytes() == (tmp_path / "b/selection-best.csv").read_bytes()
    assert "chosen by both: 2 of 2" in run(tmp_path / "a", "--top", 2, "--compare", tmp_path / "b")[1]


def test_a_manifest_that_flatters_a_packet_is_noticed(tmp_path):
    source, root = ArraySource(tmp_path / "in", count=2), tmp_path / "out"
    carry_out(array_plan(source, root, QUICK), Silent(), run_shard_plainly)
    rows = Manifest(root).rows()
    rows["square_1"]["score"] = 1.0
    Manifest(root).write(rows.values())
    code, output = run(root, "--top", 1)
    assert code == 2
    assert "its packet" in output
    assert not list(root.glob("selection-*"))


def test_a_manifest_edited_by_hand_is_noticed(tmp_path):
    root = manifest(tmp_path, {"a": 0.5, "b": 0.7})
    assert len(read_candidates(root)) == 2
    edited = (root / "manifest.csv").read_text().replace("0.5", "0.9")
    (root / "manifest.csv").write_text(edited)
    with pytest.raises(ConfigError, match="disagree about a: one was edited by hand"):
        read_candidates(root)


def test_a_manifest_that_lists_a_lost_packet_is_refused(tmp_path):
    root = manifest(tmp_path, {"a": 0.5, "b": None})
    (root / "packets" / "b.h5").unlink()
    with pytest.raises(ConfigError, match=r"1 packets that are not there \(first: b\)"):
        read_candidates(root)


def test_a_damaged_or_missing_manifest_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"has no manifest\.parquet"):
        read_candidates(tmp_path)
    (tmp_path / "manifest.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="manifest rebuild"):
        read_candidates(tmp_path)


def test_the_command_writes_beside_the_csv_and_says_so_in_json(tmp_path):
    rows = [{"episode_id": c.episode_id, "score": c.score, "language_instruction": ""} for c in clips()]
    path = scores_csv(tmp_path / "scores.csv", rows)
    code, output = run(path, "--random", 5, "--seed", 1, "--name", "pilot", "--json")
    told = json.loads(output)
    assert (code, told["exit_code"], told["command"], told["counts"]["selected"]) == (0, 0, "select", 5)
    assert [episode["episode_id"] for episode in told["episodes"]] == list(
        read_selection(tmp_path / "selection-pilot.csv")
    )


def test_a_selection_can_be_selected_from(tmp_path):
    rows = [{"episode_id": c.episode_id, "score": c.score, "language_instruction": ""} for c in clips()]
    path = scores_csv(tmp_path / "scores.csv", rows)
    assert run(path, "--random", 10, "--seed", 1, "--name", "drawn")[0] == 0
    assert run(tmp_path / "selection-drawn.csv", "--top", 3, "--name", "best")[0] == 0
    best = read_selection(tmp_path / "selection-best.csv")
    assert list(best) == sorted(read_selection(tmp_path / "selection-drawn.csv"))[:3]


@pytest.mark.parametrize("options", [[], ["--top", 1, "--random", 1], ["--top", 0], ["--top", 21], ["--name", "x"]])
def test_bad_usage_exits_with_2(tmp_path, options):
    rows = [{"episode_id": c.episode_id, "score": c.score, "language_instruction": ""} for c in clips()]
    assert run(scores_csv(tmp_path / "scores.csv", rows), *options)[0] == 2


def test_compare_alone_writes_nothing(tmp_path):
    rows = [{"episode_id": c.episode_id, "score": c.score, "language_instruction": ""} for c in clips()]
    path = scores_csv(tmp_path / "scores.csv", rows)
    code, output = run(path, "--compare", path)
    assert code == 0
    assert "Kendall tau over 20 episodes: score 1.000" in output
    assert not list(tmp_path.glob("selection-*"))
    assert "chosen by both: 3 of 3" in run(path, "--compare", path, "--top", 3)[1]


def test_annotations_of_the_viewer_decide_what_may_be_picked(tmp_path):
    path = tmp_path / "scores.csv"
    scores_csv(path, [{"episode_id": f"e{k}", "score": 0.5} for k in range(4)])
    write_annotation(OutputDirectory.open(tmp_path), "e0", Annotation("reject", "blurred"))
    write_annotation(OutputDirectory.open(tmp_path), "e1", Annotation("accept", ""))
    for rule, wanted in (("accept", {"e1"}), ("not-reject", {"e1", "e2", "e3"})):
        code, output = run(path, "--min-score", 0, "--annotated", rule, "--name", rule)
        assert code == 0, output
        picked = read_selection(tmp_path / f"selection-{rule}.csv")
        assert set(picked) == wanted


def test_of_a_manifest_s_csv_only_what_is_compared_is_kept(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text("episode_id,status,score,tags,seconds_masks\ne0,done,0.5,a;b,3.25\ne1,failed,,,\n")
    rows = selection_module._table_rows(path, ("episode_id", "status", "score"))
    assert rows == [
        {"episode_id": "e0", "status": "done", "score": "0.5"},
        {"episode_id": "e1", "status": "failed", "score": ""},
    ]
