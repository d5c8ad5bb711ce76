import numpy as np
import pytest

from extractors.errors import ShapeError
from extractors.packed_masks import PackedMasks


def test_packed_masks_come_back_as_they_went_in():
    masks = np.random.default_rng(0).random((5, 13, 17)) > 0.7
    masks[2] = False
    packed = PackedMasks.of(masks)
    assert packed.shape == masks.shape
    assert (np.stack(list(packed)) == masks).all()
    assert packed.present.tolist() == [True, True, False, True, True]
    with pytest.raises(ShapeError, match="bool"):
        packed[0] = np.zeros((13, 16), bool)
