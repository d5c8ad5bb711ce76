"""A short run of the fuzzer, and whether it would notice: the long one is `make fuzz`."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from extractors.errors import CorruptDataError
from tests.fuzz import running, sources
from tests.fuzz.__main__ import cases_of


def crashes(folder: Path, rng: np.random.Generator) -> str:
    raise KeyError("a bare exception")


def refuses(folder: Path, rng: np.random.Generator) -> str:
    raise CorruptDataError("bad")


def hangs(folder: Path, rng: np.random.Generator) -> str:
    time.sleep(1000)
    return "never"


def dies(folder: Path, rng: np.random.Generator) -> str:
    import os

    os._exit(7)


def starts(folder: Path, rng: np.random.Generator) -> str:
    return str(subprocess.run(["true"], check=True).returncode)


def leaves(folder: Path, rng: np.random.Generator) -> str:
    (folder.parent.parent / "cuepack-fuzz-outside").write_text("x")
    return "left"


def eats(folder: Path, rng: np.random.Generator) -> str:
    return str(len(np.ones(running.MOST_BYTES // 8 + 10**6)))


CASES = {name.__name__: name for name in (crashes, refuses, hangs, dies, starts, leaves, eats)}


def test_a_child_is_not_charged_for_the_memory_of_the_process_that_started_it():
    eaten = np.ones(running.MOST_BYTES // 8 + 10**6)
    (result,) = running.run({"refuses": __name__}, 1)
    assert result.good, running.format_results([result])
    assert 0 < result.peak < eaten.nbytes


def test_the_fuzzer_notices_what_must_not_happen():
    # The one that hangs is waited for; a busy machine takes half a minute to fill the memory of another.
    patient = running.run({name: __name__ for name in CASES if name != "hangs"}, 1)
    results = {r.name: r for r in (*patient, *running.run({"hangs": __name__}, 1, seconds=5, first=25))}
    kinds = {name: next(iter(result.faults), "") for name, result in results.items()}
    expected = {"crashes": "crash", "refuses": "", "hangs": "hang", "dies": "died", "starts": "program"}
    assert kinds == {**expected, "leaves": "outside", "eats": "memory"}
    assert results["refuses"].outcomes == {"refused: CorruptDataError": 1}
    assert "hang (--case hangs --seed 0 --count 1)" in running.format_results(list(results.values()))
    (Path(tempfile.gettempdir()) / "cuepack-fuzz-outside").unlink(missing_ok=True)


@pytest.mark.timeout(900)
def test_a_few_spoiled_inputs_of_every_reader_crash_nothing():
    results = running.run(cases_of("sources"), 12, seed=10**6, seconds=60)
    assert [result.name for result in results] == list(sources.CASES)
    assert all(result.good for result in results), running.format_results(results)
