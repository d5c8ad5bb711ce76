"""Other things: numbers that last through the clip, names where the instruction has some."""

import numpy as np

from extractors.things import LEAST_PX, MOST, named_things, resting_things


def _square(frames: int, y: int, x: int, side: int, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    masks = np.zeros((frames, *size), bool)
    masks[:, y : y + side, x : x + side] = True
    return masks


def test_a_thing_keeps_its_number_while_the_arm_passes_before_it():
    large, small = _square(9, 2, 2, 10), _square(9, 20, 40, 6)
    arm = _square(9, 0, 0, 14)
    arm[:3], arm[6:] = False, False
    labels = resting_things(large | small, arm)
    assert np.array_equal(labels == 1, large & ~arm)
    assert np.array_equal(labels == 2, small)
    # A thing that is covered most of the time is there in the frames that show it.
    arm[1:] = _square(8, 0, 0, 14)
    assert np.array_equal(resting_things(large, arm) == 1, large & ~arm)


def test_what_is_seen_in_few_frames_or_is_a_spot_is_no_thing():
    flicker = _square(9, 2, 2, 10)
    flicker[4:] = False
    assert not resting_things(flicker, np.zeros_like(flicker)).any()
    spot = _square(9, 2, 2, int(np.sqrt(LEAST_PX)) - 1)
    assert not resting_things(spot, np.zeros_like(spot)).any()
    nothing = np.zeros((3, 8, 8), bool)
    assert not resting_things(nothing, ~nothing).any()


def test_numbers_run_from_the_largest_and_end():
    many = np.zeros((1, 100, 240), bool)
    for index in range(300):
        y, x = 6 * (index // 20), 12 * (index % 20)
        many[0, y : y + 5, x : x + 4 + index % 2] = True
    labels = resting_things(many, np.zeros_like(many))
    assert labels.max() == MOST
    areas = np.bincount(labels.ravel())[1:]
    assert (np.diff(areas) <= 0).all()


def test_masks_become_things_with_the_names_of_the_instruction():
    object_, plate, other = _square(4, 2, 2, 6), _square(4, 10, 30, 12), _square(4, 30, 2, 8)
    again = plate.copy()
    again[:, 10] = False
    found = [(again, ""), (object_, "carrot"), (plate, "plate"), (np.zeros_like(plate), "ghost"), (other, "")]
    things = named_things(found, object_)
    assert things.names == ("", "plate", "")
    assert np.array_equal(things.labels == 1, again)
    assert np.array_equal(things.labels == 2, other)


def test_a_pixel_belongs_to_the_object_before_a_thing():
    object_, plate = _square(4, 12, 32, 4), _square(4, 10, 30, 12)
    things = named_things([(plate, "plate")], object_)
    assert np.array_equal(things.labels == 1, plate & ~object_)
