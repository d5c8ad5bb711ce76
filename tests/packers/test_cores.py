import os

from packers import cores
from packers.cores import usable_cpus


def test_the_affinity_and_a_container_s_share_limit_the_cores(tmp_path, monkeypatch):
    usable = len(os.sched_getaffinity(0))
    monkeypatch.setattr(cores, "_CGROUP_1", (tmp_path / "none", tmp_path / "none"))
    for text, wanted in (("max 100000", usable), ("50000 100000", 1), ("99900000 100000", usable)):
        (tmp_path / "cpu.max").write_text(text)
        monkeypatch.setattr(cores, "_CGROUP_2", tmp_path / "cpu.max")
        assert usable_cpus() == wanted
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5, 7})
    (tmp_path / "cpu.max").write_text("150000 100000")
    assert usable_cpus() == 2


def test_the_older_kind_of_container_limits_them_too(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    files = tmp_path / "quota", tmp_path / "period"
    monkeypatch.setattr(cores, "_CGROUP_2", tmp_path / "none")
    monkeypatch.setattr(cores, "_CGROUP_1", files)
    for quota, wanted in (("-1", 8), ("300000", 3)):
        files[0].write_text(quota)
        files[1].write_text("100000")
        assert usable_cpus() == wanted
