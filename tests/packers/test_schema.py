import json
import subprocess
import sys

import pytest

from packers.schema import (
    DATASETS,
    ROOT_ATTRIBUTES,
    SCHEMA,
    SOURCE_RECORD,
    STAGE_RECORD,
    dataset_spec,
    dilation_radius,
    shape_fault,
)
from tests.support import REPOSITORY

MODULES = ("schema", "writer", "reader", "validate", "inspect", "admission", "examiner", "training")


def test_importing_the_packers_brings_in_nothing_heavier_than_h5py():
    code = (
        f"import sys, json; sys.path.insert(0, {str(REPOSITORY)!r}); import packers;"
        + "".join(f"import packers.{module};" for module in MODULES)
        + "print(json.dumps(sorted(sys.modules)))"
    )
    modules = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert "h5py" in modules
    assert not {"torch", "tensorflow", "prefect", "cv2", "pandas", "click", "pydantic", "scipy"} & set(modules)


@pytest.mark.parametrize("spec", DATASETS.values(), ids=lambda spec: spec.path)
def test_what_a_dataset_needs_is_itself_in_the_table(spec):
    for name in (*spec.needs, *([spec.valid] if spec.valid else [])):
        assert name in DATASETS
    assert spec.description


def test_format_md_names_every_dataset_and_attribute():
    text = (REPOSITORY / "packers" / "FORMAT.md").read_text()
    for name in DATASETS:
        stated = f".../{name.rsplit('/', 1)[-1]}" if name.startswith("tracks/") else name
        assert f"`{stated}`" in text
    for name in (SCHEMA, *ROOT_ATTRIBUTES, *SOURCE_RECORD, *STAGE_RECORD):
        assert f"`{name}`" in text


def test_any_dilation_radius_has_a_place():
    assert dilation_radius("masks/object_dilate17") == 17
    assert dataset_spec("masks/object_dilate17") is dataset_spec("masks/object_dilate8")
    for name in ("masks/object_dilate", "masks/object_dilate0", "masks/object_dilate<R>", "masks/object_dilate8x"):
        assert dataset_spec(name) is None


def test_each_track_set_has_its_own_number_of_points():
    sizes: dict[str, int] = {}
    spec = DATASETS["tracks/grid/on_object"]
    assert shape_fault("tracks/grid/on_object", spec, (400,), sizes) is None
    assert shape_fault("tracks/foreground/on_object", spec, (120,), sizes) is None
    assert "N = 400" in str(shape_fault("tracks/grid/on_object", spec, (399,), sizes))
