import threading

import numpy as np
import pytest

from flows.run import machine
from flows.run.machine import peak_memory

MIB = 2**20


def test_another_thread_that_ends_does_not_take_the_peak_away():
    with peak_memory() as alone:
        pass
    if alone.mb != alone.mb:
        pytest.skip("Linux's /proc is missing")
    peaked, others_over = threading.Event(), threading.Event()
    found = []

    def large():
        with peak_memory() as peak:
            np.ones(200 * MIB, np.uint8).sum()
            peaked.set()
            others_over.wait(30)
        found.append(peak.mb)

    thread = threading.Thread(target=large)
    thread.start()
    peaked.wait(30)
    for _ in range(3):
        with peak_memory():
            pass
    others_over.set()
    thread.join()
    assert found[0] > alone.mb + 150


@pytest.mark.parametrize(
    ("limit", "expected"), [("2000000000", 2.0), ("max", None), (str(2**63 - 4096), None), (None, None)]
)
def test_a_containers_memory_counts_where_it_has_a_limit(monkeypatch, tmp_path, limit, expected):
    file = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_CONTAINER_LIMITS", (tmp_path / "missing",))
    of_machine = machine.memory_gb()
    if limit is not None:
        file.write_text(f"{limit}\n")
    monkeypatch.setattr(machine, "_CONTAINER_LIMITS", (file,))
    assert machine.memory_gb() == (expected or of_machine)
