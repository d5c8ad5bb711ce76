"""Pickles read without running them."""

from __future__ import annotations

import os
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractors.errors import CorruptDataError, MissingDataError, UnsafePickleError
from flows.sources.pickles import load_pickle
from tests.support import shared_data

ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.arange(3, dtype=">f4"),
    np.zeros((0, 7)),
    np.array(3.5),
    np.array([True, False]),
    np.array(["ab", "c"]),
]


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


class _Runs:
    """Unpickles by making a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_arrays_come_back_as_they_were(tmp_path, array, protocol):
    read = load_pickle(_write(tmp_path / "a.pkl", pickle.dumps([{"actions": array}], protocol)))
    assert read[0]["actions"].dtype == array.dtype
    np.testing.assert_array_equal(read[0]["actions"], array)


@pytest.mark.parametrize("protocol", range(5))
def test_plain_containers_and_numpy_scalars_come_back(tmp_path, protocol):
    value = {"a": [1, 2.5, None, True, "é"], "b": (np.float64(2.5), b"\xff\x00"), "c": {}}
    assert load_pickle(_write(tmp_path / "a.pkl", pickle.dumps(value, protocol))) == value


def test_numpy_1_and_numpy_2_names_are_both_known(tmp_path):
    new = pickle.dumps(np.arange(3.0), 2)
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != new
    for data in (old, new):
        np.testing.assert_array_equal(load_pickle(_write(tmp_path / "a.pkl", data)), np.arange(3.0))


@pytest.mark.parametrize("protocol", range(5))
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path, protocol):
    data = pickle.dumps({"full_state": _Runs(tmp_path / "RAN")}, protocol)
    with pytest.raises(UnsafePickleError, match="mkdir"):
        load_pickle(_write(tmp_path / "a.pkl", data))
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(OrderedDict(a=1)),
        pickle.dumps(np.array([{}], dtype=object)),
        pickle.dumps(np.zeros(2, [("x", "f4")])),
        pickle.dumps({1, 2}),
        pickle.dumps({(1, 2): 3}),
        pickle.dumps(np.ma.masked_array([1, 2])),
        b"cnumpy\nndarray\n.",  # the class itself
        b"Pa persistent id\n.",
        b"\x80\x02\x82\x01.",  # an extension code
        b"(cos\nsystem\nS'true'\no.",
        b"(S'true'\nios\nsystem\n.",
        b"]r\xff\xff\xff\x7f.",  # a memo of two thousand million entries
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x06\x00\x00\x00rot_13tR.",
    ],
    ids=lambda data: str(data[:24]),
)
def test_whatever_is_no_array_and_no_plain_container_is_refused(tmp_path, data):
    with pytest.raises((UnsafePickleError, CorruptDataError)):
        load_pickle(_write(tmp_path / "a.pkl", data))


def test_a_pickle_cannot_change_the_functions_it_may_call(tmp_path):
    change = b"c_codecs\nencode\n(N}X\x08\x00\x00\x00__name__X\x01\x00\x00\x00xstb."
    assert [opcode.name for opcode, _, _ in pickletools.genops(change)][-2:] == ["BUILD", "STOP"]
    with pytest.raises(UnsafePickleError, match="change a function"):
        load_pickle(_write(tmp_path / "a.pkl", change))


def test_a_small_pickle_cannot_ask_for_a_large_array(tmp_path):
    data = pickle.dumps(np.zeros(3), 3)
    grown = data.replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85")
    assert grown != data
    with pytest.raises(CorruptDataError):
        load_pickle(_write(tmp_path / "a.pkl", grown))


def test_containers_that_share_a_list_many_times_are_read_in_no_time(tmp_path):
    value: list[Any] = []
    for _ in range(28):
        value = [value] * 10
    read = load_pickle(_write(tmp_path / "a.pkl", pickle.dumps(value)))
    assert len(read) == 10
    assert read[0] is read[9]


def test_a_list_that_holds_itself_is_refused(tmp_path):
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UnsafePickleError, match="deep"):
        load_pickle(_write(tmp_path / "a.pkl", pickle.dumps(value)))


@pytest.mark.parametrize("protocol", range(5))
def test_a_pickle_cut_anywhere_is_reported_as_damaged(tmp_path, protocol):
    data = pickle.dumps([{"actions": np.arange(7.0)}], protocol)
    for length in range(0, len(data) - 1, 5):
        with pytest.raises(CorruptDataError, match=r"policy_out\.pkl"):
            load_pickle(_write(tmp_path / "a.pkl", data[:length]), "traj0/policy_out.pkl")


def test_a_missing_pickle_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"obs_dict\.pkl"):
        load_pickle(tmp_path / "obs_dict.pkl")


@pytest.mark.shared
def test_every_good_pickle_of_the_fixtures_reads_as_plain_pickle_reads_it():
    paths = [p for p in shared_data("bridge_raw", "good").rglob("*.pkl") if p.name != "agent_data.pkl"]
    assert len(paths) == 8
    for path in paths:
        np.testing.assert_equal(load_pickle(path), pickle.loads(path.read_bytes()))
