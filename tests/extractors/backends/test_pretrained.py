"""What is said where packages beside `transformers` do not fit."""

import subprocess
import sys

import pytest

pytest.importorskip("transformers", reason="needs the transformers package (extra `sam`)")

_ASK = """
from extractors.backends.pretrained import check_transformers
try:
    check_transformers("grounded-sam", "GroundingDinoForObjectDetection")
except Exception as error:
    print(type(error).__name__, error)
else:
    print("it can be imported")
"""


def asked(folder):
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})" + _ASK]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def package(folder, name, code):
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)
    info = folder / f"{name}-0.28.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.28.0\n")


@pytest.mark.parametrize(
    "fault",
    [
        "raise RuntimeError('operator torchvision::nms does not exist')",
        "raise ImportError('libcudart.so.13: cannot open shared object file')",
        "raise OSError('undefined symbol')",
    ],
)
def test_a_torchvision_that_does_not_fit_torch_is_named_as_the_cause(tmp_path, fault):
    package(tmp_path, "torchvision", fault)
    said = asked(tmp_path)
    assert said.startswith("ConfigError")
    assert "the torchvision that is installed does not fit torch" in said
    assert "pip uninstall torchvision" in said
    assert "needs the transformers package" not in said


def test_another_package_that_does_not_fit_is_named(tmp_path):
    # Its version is not one that the library takes, which the library says by an ImportError.
    package(tmp_path, "tokenizers", "raise RuntimeError('built for another processor')")
    said = asked(tmp_path)
    assert said.startswith("ConfigError")
    assert "tokenizers" in said


def test_without_a_broken_neighbour_nothing_is_said(tmp_path):
    assert asked(tmp_path).strip() == "it can be imported"
