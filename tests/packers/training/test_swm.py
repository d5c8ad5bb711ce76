"""The stable-worldmodel format against a stand-in of its base class; `make clients` runs the real one."""

import importlib
import sys
from types import ModuleType

import numpy as np
import pytest

from packers.reader import Packet
from packers.training import Depth
from tests.packers.training import packets


class Base:
    """What stable-worldmodel 0.1.1's `Dataset` does with lengths and slices."""

    def __init__(self, lengths, offsets, frameskip=1, num_steps=1, transform=None):
        self.lengths, self.offsets, self.frameskip, self.num_steps = lengths, offsets, frameskip, num_steps
        self.transform, self.span = transform, num_steps * frameskip
        self.clip_indices = [(ep, s) for ep, n in enumerate(lengths) for s in range(n - self.span + 1)]

    def __len__(self):
        return len(self.clip_indices)

    def __getitem__(self, number):
        ep, start = self.clip_indices[number]
        steps = self._load_slice(ep, start, start + self.span)
        steps["action"] = steps["action"].reshape(self.num_steps, -1)
        return steps


@pytest.fixture
def swm(monkeypatch):
    names = ("stable_worldmodel", "stable_worldmodel.data", "stable_worldmodel.data.dataset")
    modules = {name: ModuleType(name) for name in (*names, "stable_worldmodel.data.format")}
    modules["stable_worldmodel.data.dataset"].Dataset = Base
    modules["stable_worldmodel.data.format"].Format = object
    formats = modules["stable_worldmodel.data.format"].FORMATS = {"hdf5": object}

    def register_format(cls):
        formats[cls.name] = cls
        return cls

    modules["stable_worldmodel.data.format"].register_format = register_format
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "packers.training.swm", raising=False)
    yield importlib.import_module("packers.training.swm")
    sys.modules.pop("packers.training.swm", None)


@pytest.fixture
def folder(tmp_path):
    for name, frames in (("a", 12), ("b", 9), ("c", 3)):
        packets.write(tmp_path / "packets", name, frames)
    return tmp_path


def test_windows_are_slices_of_the_packets(swm, folder):
    data = swm.Cuepack.open_reader(folder, frameskip=2, num_steps=3, targets=[Depth("depth/metric", size=(6, 8))])
    assert len(data) == 7 + 4
    assert swm.Cuepack.detect(folder)
    assert not swm.Cuepack.detect(folder / "packets")
    window = data[8]
    with Packet(folder / "packets" / "b.h5") as packet:
        pixels, action, state = (packet.read(name, 1, 7) for name in ("pixels", "action", "state"))
    np.testing.assert_array_equal(window["pixels"].permute(0, 2, 3, 1).numpy(), pixels[::2])
    np.testing.assert_array_equal(window["action"].reshape(6, -1).numpy(), action)
    for name in swm.STATES:
        np.testing.assert_array_equal(window[name].numpy(), state[::2])
    assert window["depth"].shape == (3, 6, 8)


def test_columns_of_all_rows_are_finite_and_can_be_merged(swm, folder):
    data = swm.CuepackDataset(folder, num_steps=2, keys_to_merge={"both": ["action", "proprio"]})
    assert data.get_col_data("action").shape == (24, 7)
    assert np.isfinite(data.get_col_data("action")).all()
    assert data.get_col_data("action_valid").sum() == 24 - 3
    assert data.get_dim("both") == 10
    assert data[0]["both"].shape == (2, 10)
    np.testing.assert_array_equal(data.get_row_data(13)["proprio"], data.get_col_data("proprio")[13])
    with pytest.raises(KeyError, match="packets give no column sound"):
        swm.CuepackDataset(folder, keys_to_load=["sound"])


def test_packets_are_detected_before_an_export_beside_them(swm):
    # Its own reader takes every folder that an .h5 file is in, and the first format that fits is taken.
    assert list(sys.modules["stable_worldmodel.data.format"].FORMATS) == ["cuepack", "hdf5"]
