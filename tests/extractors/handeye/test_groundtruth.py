import numpy as np
import pytest

from extractors.handeye.camera import calibrate_camera
from tests.benchmarks.handeye import error_of
from tests.benchmarks.handeye_groundtruth import read_case
from tests.support import shared_data


@pytest.mark.shared
@pytest.mark.parametrize("name", ["dev05_assembly", "dev07_bin_picking"])
def test_a_simulated_arm_calibrates_its_camera(name):
    case = read_case(shared_data("groundtruth_dev", f"{name}.npz"), 0)
    found = calibrate_camera([case.clip])
    error = error_of(found, case.camera.fx, case.base_from_camera)
    # Exact tracks with 1.5 px of noise: one clip gives sigmas of 2 to 5 %, and must keep within three of them.
    assert (error.sigmas < 3).all()
    assert abs(error.focal) < 0.1
    assert not found.riding[: len(case.truth.grid_kind)][case.truth.grid_kind == 0].any()
    assert np.isfinite(found.points[found.riding]).all()
