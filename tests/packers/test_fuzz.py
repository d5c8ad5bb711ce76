"""A short run of the packets' fuzzer; the long one is `python -m tests.fuzz --only packets`."""

from collections import Counter

import numpy as np
import pytest

from packers import admission, validate
from tests.fuzz import packets


@pytest.fixture
def forks(monkeypatch):
    """Puts the examining process back when the test is done."""
    monkeypatch.setattr(admission, "examine", admission.examine)
    monkeypatch.setattr(validate, "examine", validate.examine)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize(("case", "count"), [("signed_packet", 20), ("flipped_packet", 20)])
def test_mutated_packets_do_no_harm(tmp_path, forks, case, count):
    ends: Counter[str] = Counter()
    for number in range(count):
        ends[packets.CASES[case](tmp_path, np.random.default_rng(number))] += 1
    if case == "flipped_packet":
        assert ends == {"refused": count}
    else:
        # The mutations reach HDF5: some are let in, as what they change counts for nothing.
        assert 0 < ends["refused"] < count
