import json
from dataclasses import replace

import numpy as np
import pytest

from scoring.report import assess
from scoring.settings import ScoringSettings
from tests.benchmarks.faults import FAULTS
from tests.scoring.clips import good_clip

SETTINGS = ScoringSettings()
MODALITIES = {"frames", "actions", "masks", "depth", "tracks", "geometry", "contact", "calibration", "motion"}


@pytest.fixture(scope="module")
def clip():
    return good_clip()


def test_a_good_clip_has_full_scores_and_no_tags(clip):
    verdict = assess(clip, SETTINGS)
    assert verdict.tags == []
    statuses = {name: card["status"] for name, card in verdict.quality.items()}
    # Its state has no names, so no hand calibrates a camera.
    assert statuses.pop("calibration") == "absent"
    assert set(statuses.values()) == {"pass"}
    assert verdict.scores["score"] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_named(clip, name):
    modality, tag, fault = FAULTS[name]
    broken = fault(np.random.default_rng(3), clip)
    assert broken is not None, "the clip must be fit for every fault"
    card = assess(broken, SETTINGS).quality[modality]
    assert tag in card["tags"]
    assert card["status"] in ("warn", "fail")
    assert all(card["reasons"])


def test_the_card_of_motion_counts_seconds(clip):
    numbers = assess(clip, SETTINGS).quality["motion"]["numbers"]
    held = clip.held.sum() / clip.fps
    assert (numbers["active_seconds"], numbers["object_seconds"]) == pytest.approx((clip.n_frames / clip.fps, held))
    assert numbers["phase_known_share"] == 1
    unknown = replace(clip, object_speed=np.full(clip.n_frames, np.nan, np.float32))
    assert assess(unknown, SETTINGS).quality["motion"]["numbers"]["object_seconds"] is None


def test_every_modality_has_a_card_of_plain_json(clip):
    verdict = assess(clip, SETTINGS)
    assert set(verdict.quality) == MODALITIES
    assert json.loads(json.dumps(verdict.quality, allow_nan=False)) == verdict.quality


def test_what_was_not_extracted_is_absent_and_its_weight_redistributed(clip):
    bare = dict.fromkeys(("action", "action_valid", "state", "gripper", "masks", "robot", "mask_score", "depth"))
    bare |= dict.fromkeys(("depth_kind", "tracks", "contact", "held", "phase", "centroids_valid"))
    verdict = assess(replace(clip, **bare), SETTINGS)
    absent = {name for name, card in verdict.quality.items() if card["status"] == "absent"}
    assert absent == MODALITIES - {"frames", "geometry"}
    assert verdict.scores["mask"] is None
    # Task and length carry 0.4 of a weight of 1.15.
    assert verdict.scores["weight_missing"] == pytest.approx(1 - 0.4 / 1.15, abs=1e-6)


def test_a_mask_on_the_arm_is_suspected_without_a_robot_mask(clip):
    verdict = assess(replace(clip, masks=clip.robot, robot=None), SETTINGS)
    assert "mask-on-robot" in verdict.tags


def test_a_moving_camera_is_no_drift_of_depth(clip):
    tracks = {name: {k: v.copy() for k, v in fields.items()} for name, fields in clip.tracks.items()}
    for fields in tracks.values():
        fields["xy"] += 2 * np.arange(clip.n_frames, dtype=np.float32)[:, None, None]
    ramp = np.linspace(1, 3, clip.n_frames, dtype=np.float32)[:, None, None]
    still = assess(replace(clip, depth=clip.depth * ramp), SETTINGS)
    verdict = assess(replace(clip, tracks=tracks, depth=clip.depth * ramp, camera_moves=True), SETTINGS)
    assert "depth-drift" in still.tags
    assert "depth-drift" not in verdict.tags
    assert "moving-camera" in verdict.tags
    assert verdict.quality["frames"]["numbers"]["moving_camera"] is True


@pytest.mark.parametrize("n_frames", [1, 2, 3, 4, 5])
def test_the_shortest_clips_are_judged(n_frames):
    verdict = assess(good_clip(n_frames), SETTINGS)
    assert "no-mask" not in verdict.tags
    assert verdict.quality["frames"]["status"] == "pass" or n_frames > 1


def test_wild_values_make_no_exception(clip):
    fields = {k: v.copy() for k, v in clip.tracks["foreground"].items()}
    fields["xy"][3] = 1e6
    fields["visibility"][:] = False
    wild = replace(
        clip,
        action=np.full_like(clip.action, np.nan),
        gripper=np.full_like(clip.gripper, np.nan),
        state=np.full_like(clip.state, np.nan),
        depth=np.full_like(clip.depth, np.nan),
        timestamp=np.full_like(clip.timestamp, np.nan),
        masks=np.zeros_like(clip.masks),
        tracks={"foreground": fields},
        intrinsics=np.full((3, 3), np.nan),
        language_instruction="\x00\n",
    )
    verdict = assess(wild, SETTINGS)
    json.dumps(verdict.quality, allow_nan=False)
    json.dumps(verdict.scores, allow_nan=False)
    assert {"timestamp-order", "no-mask", "depth-holes", "tracks-lost", "intrinsics-odd"} <= set(verdict.tags)


def test_the_sources_tags_are_kept(clip):
    assert assess(replace(clip, tags=("no-language",)), SETTINGS).tags == ["no-language"]


def test_an_object_that_stays_is_tagged(clip):
    fields = dict(clip.tracks["foreground"])
    fields["xy"] = np.repeat(fields["xy"][:1], clip.n_frames, axis=0)
    fields["xy"] = fields["xy"] + np.random.default_rng(0).normal(0, 0.3, fields["xy"].shape)
    stays = np.repeat(clip.masks[:1], clip.n_frames, axis=0)
    verdict = assess(replace(clip, tracks={"foreground": fields}, masks=stays), SETTINGS)
    assert "low-motion" in verdict.tags
    assert verdict.scores["displacement"] < 0.05
    # Under a mask that goes, points that stay were left behind, and say nothing about the object.
    left = assess(replace(clip, tracks={"foreground": fields}), SETTINGS)
    assert {"frozen-tracks"} == {"frozen-tracks", "low-motion"} & set(left.tags)
    assert left.scores["displacement"] is None


def test_a_judge_that_stumbles_does_not_take_the_episode_down(clip, monkeypatch):
    def stumble(*_):
        raise ValueError("operands could not be broadcast")

    monkeypatch.setattr("scoring.report.judge_depth", stumble)
    verdict = assess(clip, SETTINGS)
    assert "not-judged" in verdict.tags
    assert "broadcast" in verdict.quality["depth"]["reasons"][0]
    assert verdict.quality["tracks"]["status"] == "pass"


@pytest.mark.parametrize("fps", [5.0, 30.0])
def test_every_length_is_judged(fps):
    """Clips of exactly 6 or 7 frames failed: np.convolve of mode "same" gives the longer of its two arguments."""
    for n_frames in range(1, 41):
        clip = good_clip(n_frames, fps=fps, timestamp=np.arange(n_frames) / fps)
        assert "not-judged" not in assess(clip, SETTINGS).tags, n_frames


def test_every_rate_is_judged():
    for fps in range(1, 61):
        clip = good_clip(12, fps=float(fps), timestamp=np.arange(12) / fps)
        assert "not-judged" not in assess(clip, SETTINGS).tags, fps


def test_points_posed_again_where_the_object_rests_are_neither_lost_nor_frozen(clip):
    """SO-101: a tracker loses the brick while it is carried, and its points are posed again where it was put down."""
    fields = {k: v.copy() for k, v in clip.tracks["foreground"].items()}
    own = np.flatnonzero(fields["on_object"])
    xy, half = fields["xy"], len(own) // 2
    early, late = own[:half], own[half:]
    xy[:, early], xy[:, late] = xy[:1, early], xy[-1:, late]
    fields["visibility"][9:, early] = False
    fields["visibility"][:-6, late] = False
    verdict = assess(replace(clip, tracks={"foreground": fields}), ScoringSettings(min_object_tracks=20))
    assert not {"frozen-tracks", "tracks-lost", "low-motion"} & set(verdict.tags)
    assert verdict.scores["displacement"] is None  # not told, rather than 0


def test_a_calibrated_camera_has_a_card_and_a_tag(clip):
    found = {
        "hand": {},
        "camera": {"residual_px": 0.5, "focal_sigma": 0.02, "position_sigma_m": 0.01},
        "reasons": [],
        "tags": ["calibrated-by-hand", "time-offset"],
    }
    placed = {"object": {"residual_px": 0.7}, "depth": {"sigma": 0.05}}
    verdict = assess(replace(clip, reports={"calibration": found, "placing": placed}), SETTINGS)
    card = verdict.quality["calibration"]
    assert card["status"] == "pass"
    assert card["numbers"]["object_residual_px"] == 0.7
    assert card["numbers"]["depth_sigma"] == 0.05
    assert {"calibrated-by-hand", "time-offset"} <= set(verdict.tags)


def test_a_camera_that_is_not_observable_is_said_with_its_reason(clip):
    found = {"hand": {}, "reasons": ["not observable, because the hand stands"], "tags": ["not-observable"]}
    verdict = assess(replace(clip, reports={"calibration": found}), SETTINGS)
    assert verdict.quality["calibration"]["reasons"] == ["not observable, because the hand stands"]
    assert "not-observable" in verdict.tags
