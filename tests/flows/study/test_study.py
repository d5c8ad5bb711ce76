"""A whole small study on toy packets: its split, its runs, what is the same in all of them, and going on with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from extractors.errors import ConfigError, OutputError
from flows.study.conditions import named_conditions
from flows.study.data import as_inputs, whole_episodes
from flows.study.evaluation import EVALUATION_FILE, TorchLatents, evaluate, read_evaluation, save_evaluation
from flows.study.plan import StudySettings, make_study, read_study, write_study
from flows.study.training import STATE_FILE, Trainer, read_trained, train
from flows.study.work import work_in_process, work_on
from tests.flows.study.worlds import write_toy
from tests.packers.training import packets

SMALL = StudySettings(side=16, epochs=2, horizon=3, held_share=0.3, batch=8)


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    write_toy(folder, 8, frames=14, noise=10.0)
    return folder


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def planned(toys, out, conditions=("A", "dataset:state"), settings=SMALL, **more):
    plan = make_study(toys, out, settings, conditions=conditions, **{"controls": (), "seeds": 1} | more)
    write_study(plan)
    return plan


def test_a_plan_is_read_back_as_it_was_written(toys, tmp_path):
    plan = planned(toys, tmp_path, seeds=2, sizes=(2, 0))
    assert read_study(tmp_path) == plan
    assert len(plan.runs) == 2 * 2 * 2
    assert plan.settings.frameskip == 1
    assert not set(plan.held_out) & set(plan.training)


def test_a_folder_moved_elsewhere_is_the_same_study(toys, tmp_path):
    plan = planned(toys, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    moved = read_study(tmp_path / "there")
    assert moved.runs == plan.runs
    assert moved.selection(moved.runs[0]).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 99}', "null"])
def test_a_study_file_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(OutputError, match="run `cuepack study` again"):
        read_study(tmp_path)


def test_larger_draws_hold_the_smaller_ones(toys, tmp_path):
    plan = planned(toys, tmp_path, sizes=(2, 4))
    small, large = (
        {e.episode_id for e in whole_episodes(plan, next(r for r in plan.runs if r.episodes == size), "train")}
        for size in (2, 4)
    )
    assert small < large
    assert len(large) == 4


def test_a_new_condition_seed_or_path_changes_no_key_of_the_others(toys, tmp_path):
    first = planned(toys, tmp_path / "a")
    more = planned(toys, tmp_path / "b", conditions=("A", "G", "dataset:state"), seeds=2, controls=("nothing",))
    assert {run.key for run in first.runs} < {run.key for run in more.runs}
    assert len({run.key for run in more.runs}) == len(more.runs)


def test_other_packets_or_settings_change_every_key(toys, tmp_path):
    keys = {run.key for run in planned(toys, tmp_path / "a").runs}
    other = tmp_path / "other"
    write_toy(other, 8, frames=14, noise=10.0, seed=1)
    assert not keys & {run.key for run in planned(other, tmp_path / "b").runs}
    for change in ({"epochs": 3}, {"rate": 1e-3}, {"weight": 0.2}, {"side": 24}, {"tokens": "patches"}):
        assert not keys & {run.key for run in planned(toys, tmp_path / "c", settings=replace(SMALL, **change)).runs}


def test_held_out_scenes_are_not_trained_on(tmp_path):
    for number in range(12):
        packets.write(tmp_path / "p", f"e{number:02d}", 12, episode=number)
        # Scenes are folders of the source: three tables, four episodes each.
    plan = planned(tmp_path / "p", tmp_path / "s", conditions=("A",))
    assert any("scene" in warning for warning in plan.warnings)


def test_all_conditions_of_a_seed_begin_with_the_same_losses(toys, tmp_path):
    plan = planned(toys, tmp_path, conditions=("A", "dataset:state", "G"), controls=("nothing", "shuffled"))
    told = {}
    for run in plan.runs:
        trainer = Trainer(plan, run)
        batch = as_inputs(next(iter(trainer.loader)), "cpu")
        trainer.model.train()
        prediction, sigreg, _ = trainer.losses(batch)
        told[run.condition] = (
            prediction.item(),
            sigreg.item(),
            batch["frames"].sum().item(),
            batch["action"].sum().item(),
        )
    assert len(told) == 6
    assert len(set(told.values())) == 1


def test_seeds_differ(toys, tmp_path):
    plan = planned(toys, tmp_path, conditions=("A",), seeds=2)
    told = set()
    for run in plan.runs:
        trainer = Trainer(plan, run)
        told.add(trainer.losses(as_inputs(next(iter(trainer.loader)), "cpu"))[0].item())
    assert len(told) == 2


def test_shuffled_targets_are_other_windows(toys, tmp_path):
    plan = planned(toys, tmp_path, controls=("shuffled",))
    by_name = {run.condition: run for run in plan.runs}
    losses = {}
    for name in ("dataset:state", "dataset:state-shuffled"):
        trainer = Trainer(plan, by_name[name])
        losses[name] = trainer.losses(as_inputs(next(iter(trainer.loader)), "cpu"))[2].item()
    assert losses["dataset:state"] != losses["dataset:state-shuffled"]


def test_going_on_after_any_epoch_ends_where_one_go_does(toys, tmp_path):
    plan = planned(toys, tmp_path / "a", settings=replace(SMALL, epochs=3))
    run = plan.runs[1]
    whole = train(plan, run)
    other = planned(toys, tmp_path / "b", settings=replace(SMALL, epochs=3))
    stopped = Trainer(other, run)
    assert stopped.train_epoch()
    other.folder(run).mkdir(parents=True)
    stopped.save(other.folder(run) / STATE_FILE)
    resumed = train(other, run)
    assert resumed.steps == whole.steps
    assert resumed.curves == whole.curves
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert not (other.folder(run) / STATE_FILE).exists()


def test_a_run_is_made_once_and_read_back(toys, tmp_path):
    plan = planned(toys, tmp_path)
    run = plan.runs[0]
    assert work_on(plan, run) == "trained"
    assert work_on(plan, run) == "there"
    assert plan.todo() == [plan.runs[1]]
    held_out, training = (whole_episodes(plan, run, side) for side in ("val", "train"))
    model = TorchLatents(read_trained(plan, run).model)
    again, kept = evaluate(model, held_out, training, 3), read_evaluation(plan.folder(run))
    np.testing.assert_array_equal(again.one_step, kept.one_step)
    assert again.inverse_dynamics == kept.inverse_dynamics


def test_a_run_that_another_process_works_on_is_busy(toys, tmp_path):
    from packers.locks import held

    plan = planned(toys, tmp_path)
    with held(plan.folder(plan.runs[0]) / ".lock"):
        assert work_on(plan, plan.runs[0]) == "busy"


@pytest.mark.parametrize("content", [b"", b"PK", b"\0" * 300])
def test_a_damaged_evaluation_is_named(toys, tmp_path, content):
    (tmp_path / EVALUATION_FILE).write_bytes(content)
    with pytest.raises(OutputError, match=EVALUATION_FILE):
        read_evaluation(tmp_path)


def test_a_run_that_diverges_is_said_and_not_evaluated(toys, tmp_path):
    plan = planned(toys, tmp_path, settings=replace(SMALL, rate=1.0, epochs=4), conditions=("A",))
    # A rate of 1 is far beyond what clipped gradients keep together.
    trainer = Trainer(plan, plan.runs[0])
    with torch.no_grad():
        trainer.model.predicted_projector[0].weight.fill_(float("nan"))
    assert not trainer.train_epoch()
    assert trainer.result().diverged


def test_kill_9_in_a_run_loses_only_what_it_was_doing(toys, tmp_path):
    plan = planned(toys, tmp_path, settings=replace(SMALL, epochs=400), conditions=("A",))
    run = plan.runs[0]
    command = [sys.executable, "-m", "flows.study.work", "--study", str(tmp_path), "--run", run.key]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    state = plan.folder(run) / STATE_FILE
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    trainer = Trainer(plan, run)
    trainer.load(state)
    assert trainer.epoch >= 1
    assert trainer.step == trainer.epoch * len(trainer.loader)
    assert plan.todo() == [run]


def test_a_run_in_a_process_of_its_own_says_what_went_wrong(toys, tmp_path):
    from extractors.errors import CuepackError

    plan = planned(toys, tmp_path, conditions=("A",))
    (tmp_path / "splits" / "seed0-all.csv").unlink()
    with pytest.raises(CuepackError, match="seed0-all"):
        work_in_process(tmp_path, plan.runs[0])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"conditions": ("A", "Z")}, "no condition 'Z'"),
        ({"conditions": ("A", "dataset:depth/none")}, "lack depth/none"),
        ({"sizes": (100,)}, "are left beside the held-out"),
        ({"seeds": 0}, "at least 1 seed"),
        ({"controls": ("none",)}, "controls are"),
    ],
)
def test_what_cannot_be_studied_is_said(toys, tmp_path, more, said):
    with pytest.raises(ConfigError, match=said):
        planned(toys, tmp_path, **more)


def test_too_few_episodes_for_a_split_are_said(tmp_path):
    write_toy(tmp_path / "two", 2, frames=10)
    with pytest.raises(ConfigError, match="cannot be split"):
        planned(tmp_path / "two", tmp_path / "s")


def test_episodes_without_a_cue_are_left_out_of_all_conditions(tmp_path):
    write_toy(tmp_path / "p", 7, frames=10)
    packets.write(tmp_path / "p", "bare", 10, action_width=2, size=(32, 32), without=("shape",))
    plan = planned(tmp_path / "p", tmp_path / "s", conditions=("A", "G"))
    assert "bare" not in plan.training + plan.held_out
    assert any("1 episodes lack shape_descriptors" in warning for warning in plan.warnings)


def test_episodes_shorter_than_a_window_are_counted(tmp_path):
    write_toy(tmp_path / "p", 7, frames=10)
    packets.write(tmp_path / "p", "short", 3, action_width=2, size=(32, 32))
    plan = planned(tmp_path / "p", tmp_path / "s", conditions=("A",))
    assert any("1 episodes are shorter" in warning for warning in plan.warnings)


def test_several_frame_rates_want_a_frameskip(tmp_path):
    from packers.training.index import index_packets

    write_toy(tmp_path / "p", 6, frames=10)
    entries, _ = index_packets(sorted((tmp_path / "p").glob("*.h5")), None)
    from flows.study.plan import _timed

    entries[0].facts["fps"] = 30.0
    with pytest.raises(ConfigError, match="--frameskip"):
        _timed(entries, SMALL)


def test_mixed_action_widths_and_missing_actions_train(tmp_path):
    write_toy(tmp_path / "p", 6, frames=10)
    action = np.full((10, 4), np.nan, np.float32)
    values = {"action": action}
    packets.write(tmp_path / "p", "wide", 10, action_width=4, size=(32, 32), values=values, episode=90, source="b")
    plan = planned(tmp_path / "p", tmp_path / "s", conditions=("A",), settings=replace(SMALL, epochs=1))
    trained = train(plan, plan.runs[0])
    assert not trained.diverged
    assert np.isfinite(trained.curves["prediction"]).all()


@pytest.mark.parametrize("name", ["B", "C-tight", "C-weighted", "D", "D-tokens", "E", "F", "G", "M"])
@pytest.mark.parametrize("tokens", ["cls", "patches"])
def test_every_condition_trains_on_latents_of_frames_and_of_patches(tmp_path, name, tokens):
    for number in range(5):
        packets.write(tmp_path / "p", f"e{number}", 8, action_width=2, size=(64, 64), episode=number)
    settings = replace(SMALL, side=32, epochs=1, tokens=tokens, batch=4)
    plan = planned(tmp_path / "p", tmp_path / "s", conditions=("A", name), settings=settings)
    trainer = Trainer(plan, plan.runs[1])
    batch = as_inputs(next(iter(trainer.loader)), "cpu")
    prediction, _, head = trainer.losses(batch)
    assert head is not None
    assert torch.isfinite(head)
    assert 0 < head.item() < 30
    (prediction + head).backward()
    found = [p.grad for p in trainer.model.encoder.parameters() if p.grad is not None]
    assert found
    assert all(torch.isfinite(gradient).all() for gradient in found)


def test_conditions_and_controls_have_names_of_their_own():
    found = named_conditions(["A", "B", "E"], ["nothing", "shuffled"])
    assert [each.name for each in found] == ["A", "B", "E", "B-shuffled", "E-shuffled", "nothing"]
    assert all(each.label for each in found)


def test_an_evaluation_survives_its_file(toys, tmp_path):
    plan = planned(toys, tmp_path, conditions=("A",), settings=replace(SMALL, epochs=1))
    model = TorchLatents(train(plan, plan.runs[0]).model)
    held_out, training = (whole_episodes(plan, plan.runs[0], side) for side in ("val", "train"))
    told = evaluate(model, held_out, training, 3)
    save_evaluation(told, tmp_path)
    kept = read_evaluation(tmp_path)
    for name in ("episode", "start", "motion", "one_step", "rolled_out", "forced", "copy", "constant"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(told, name))
    assert json.dumps(kept.inverse_dynamics) == json.dumps(told.inverse_dynamics)
    # The mean latent's error is the variance itself, over all frames that are predicted.
    assert told.constant[:, 0].mean() == pytest.approx(1, abs=0.35)
