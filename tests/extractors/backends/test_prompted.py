"""What text-prompted segmenters share: who is asked for, and what becomes of those who are not the object."""

import numpy as np
import pytest

from extractors.backends.nano.segmenter import NanoSegmenter
from extractors.backends.prompted import Found, PromptedSegmenter
from extractors.errors import ConfigError
from extractors.mask_choice import Candidate, Handled
from extractors.types import Episode

FRAMES, SIZE = 8, (48, 64)
PLACES = {"carrot": (8, 8, 8), "plate": (24, 30, 16), "object": (8, 8, 8), "robot arm": (0, 40, 12)}


class Squares(PromptedSegmenter):
    """Finds a square of its own for every text; under "object" the carrot, the plate and something unnamed."""

    backend = "squares"

    def propose(self, pixels, prompts, *, size):
        self.asked = list(prompts)
        places = [(prompt, PLACES[prompt]) for prompt in prompts if prompt in PLACES]
        places += [("object", PLACES["plate"]), ("object", (38, 2, 6))] if "object" in prompts else []
        found = [
            Candidate(_square(place), np.full(FRAMES, 0.9, np.float32), prompt, f"object {number}")
            for number, (prompt, place) in enumerate(places)
        ]
        return Found(tuple(found), {})


def _square(place):
    y, x, side = place
    masks = np.zeros((FRAMES, *SIZE), bool)
    masks[:, y : y + side, x : x + side] = True
    return masks


def _segment(instruction, choose="first", **settings):
    pixels = np.full((FRAMES, *SIZE, 3), 90, np.uint8)
    clip = Episode("clip", 0, "front", instruction, 5.0, pixels, np.arange(FRAMES) / 5)
    segmenter = Squares(choose=choose, **settings)
    return segmenter, segmenter.segment(clip, size=SIZE)


def test_what_is_not_the_object_is_a_thing_with_the_instructions_name():
    segmenter, masks = _segment("put the carrot on the plate", prompts=("{object}", "object"), robot_prompt="robot arm")
    assert segmenter.asked == ["carrot", "object", "robot arm", "plate"]
    assert np.array_equal(masks.object, _square(PLACES["carrot"]))
    assert masks.things.names == ("", "plate", "")
    assert np.array_equal(masks.things.labels == 1, _square(PLACES["plate"]))
    assert np.array_equal(masks.things.labels == 2, _square((38, 2, 6)))
    assert [row["prompt"] for row in masks.report["candidates"]].count("plate") == 0


def test_without_a_place_in_the_instruction_none_is_asked_for():
    segmenter, masks = _segment("lift the carrot", prompts=("{object}",))
    assert segmenter.asked == ["carrot"]
    assert masks.things.names == ("",)
    assert not masks.things.labels.any()


@pytest.mark.parametrize("place", ["plate", "robot arm"])
def test_what_the_network_sees_handled_is_chosen(monkeypatch, place):
    seen = Handled(np.arange(FRAMES), _square(PLACES[place]).astype(np.float16))
    monkeypatch.setattr(NanoSegmenter, "handled", lambda _self, _episode: seen)
    _, masks = _segment("put the carrot on the plate", choose="best", prompts=("carrot", "plate", "robot arm"))
    assert masks.report["prompt"] == place
    assert np.array_equal(masks.object, _square(PLACES[place]))


@pytest.mark.parametrize("frames", [1, 3, 8])
def test_clips_too_short_or_small_to_be_drawn_are_chosen_from(frames):
    pixels = np.full((frames, 16, 20, 3), 90, np.uint8)
    clip = Episode("clip", 0, "front", "lift the carrot", 5.0, pixels, np.arange(frames) / 5)
    handled = NanoSegmenter().handled(clip)
    assert handled.shares.shape[0] == len(handled.at)
    assert ((handled.shares >= 0) & (handled.shares <= 1)).all()


def test_a_way_to_choose_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="got 'last'"):
        Squares(choose="last")
