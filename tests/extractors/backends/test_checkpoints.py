"""Files saved under a checkpoint's name that are none: each is named for what it is, and nothing of it is run."""

import pickle

import pytest
import torch

from extractors.backends.checkpoints import read_state
from extractors.build import DEPTH_ESTIMATORS, TRACKERS
from extractors.errors import WeightsError


class Program:
    """A pickle of it runs a function when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def pickled(path, mark):
    path.write_bytes(pickle.dumps({"weight": Program(mark)}))


def in_a_checkpoint(path, mark):
    torch.save({"weight": torch.zeros(3), "more": Program(mark)}, path)


@pytest.mark.parametrize("write", [pickled, in_a_checkpoint])
def test_a_pickle_that_would_run_a_program_is_said_to_and_is_not_run(tmp_path, write):
    path, mark = tmp_path / "scaled_offline.pth", tmp_path / "was run"
    write(path, mark)
    with pytest.raises(WeightsError, match=r"asks for more than tensors.*nothing of it was run") as caught:
        read_state(path, "get the published file")
    # Torch's advice is to load it all the same.
    assert "weights_only" not in str(caught.value)
    assert str(caught.value).endswith("get the published file")
    assert not mark.exists()


FILES = {
    "a web page": b"\n<!DOCTYPE html><html><head><title>Sign in</title>",
    "a Git-LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 101\n",
    "JSON text": b'{"error": "Invalid credentials in Authorization header"}',
    "an empty file": b"",
    "a safetensors file": (64).to_bytes(8, "little")
    + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    + bytes(80),
    "a gzip file": b"\x1f\x8b\x08" + bytes(60),
    "zeros": bytes(4096),
    "XML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
}


@pytest.mark.parametrize("what", FILES)
@pytest.mark.parametrize("backend", ["cotracker3", "tapir", "video-depth-anything"])
def test_a_file_under_a_checkpoints_name_is_named_for_what_it_is(tmp_path, what, backend):
    path = tmp_path / "weights.pth"
    path.write_bytes(FILES[what])
    build = TRACKERS[backend] if backend in TRACKERS else DEPTH_ESTIMATORS[backend]
    with pytest.raises(WeightsError, match="is no checkpoint but") as caught:
        build(weights=path, device="cpu")
    assert (what if what != "XML" else "a web page") in str(caught.value)


def test_a_plain_checkpoint_is_read(tmp_path):
    torch.save({"weight": torch.arange(3.0)}, tmp_path / "a.pth")
    assert read_state(tmp_path / "a.pth", "")["weight"].tolist() == [0, 1, 2]
