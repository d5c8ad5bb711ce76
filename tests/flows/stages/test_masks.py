from types import SimpleNamespace

import pytest

from flows.config import load_config
from flows.stages.masks import MASKS
from tests.extractors.backends.nano.test_segmenter import episode, pick_clip, through_a_window


@pytest.mark.parametrize(("tags", "drawn"), [([], True), (["wrist-camera"], False)])
def test_a_robot_that_carries_the_camera_gets_no_mask_by_what_moves(tags, drawn):
    pixels = through_a_window(pick_clip()[0], 1)
    inputs = SimpleNamespace(
        config=load_config(assignments=("masks.backend=nano",)).resolved(),
        episode=episode(pixels),
        camera_moves=True,
        size=(128, 128),
        source={"tags": tags},
    )
    output = MASKS.run(inputs)
    assert output.datasets["masks/object"].data.any()
    assert ("masks/robot" in output.datasets) is drawn
    assert ("no_robot" in output.report) is not drawn
