import os
import threading

import numpy as np
import pytest

from flows.run import machine
from flows.run.machine import peak_memory, usable_cpus

MIB = 2**20


def test_the_affinity_and_a_container_s_share_limit_the_cores(tmp_path, monkeypatch):
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr(machine, "_CGROUP_1", (tmp_path / "none", tmp_path / "none"))
    for text, wanted in (("max 100000", cores), ("50000 100000", 1), ("99900000 100000", cores)):
        (tmp_path / "cpu.max").write_text(text)
        monkeypatch.setattr(machine, "_CGROUP_2", tmp_path / "cpu.max")
        assert usable_cpus() == wanted
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5, 7})
    (tmp_path / "cpu.max").write_text("150000 100000")
    assert usable_cpus() == 2


def test_the_older_kind_of_container_limits_them_too(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    files = tmp_path / "quota", tmp_path / "period"
    monkeypatch.setattr(machine, "_CGROUP_2", tmp_path / "none")
    monkeypatch.setattr(machine, "_CGROUP_1", files)
    for quota, wanted in (("-1", 8), ("300000", 3)):
        files[0].write_text(quota)
        files[1].write_text("100000")
        assert usable_cpus() == wanted


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
