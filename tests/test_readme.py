"""Every command and every block of code in README.md is run, the way a reader would."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.cli import main
from flows.sources.sample import write_sample
from tests.support import REPOSITORY, WITHOUT_MODELS, set_options

README = (REPOSITORY / "README.md").read_text()

QUICK = ["--no-prefect", "--profile", "cpu", *set_options(*WITHOUT_MODELS)]

STAND_INS = {
    "bridge_data_v2": "demo/sample/bridge_raw",
    "my_lerobot": "demo/sample/lerobot_v30",
    "observation.images.front": "observation.images.main",
    "0,5-20": "0,2-3",
    "SOURCE": "demo/sample/bridge_raw",
    "DIR": "out",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(language: str) -> list[str]:
    return [line for block in blocks(language) for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder as `make demo` leaves it, made with the quickest backends."""
    folder = tmp_path_factory.mktemp("readme")
    write_sample(folder / "demo" / "sample")
    source, out = folder / "demo" / "sample" / "bridge_raw", folder / "demo"
    assert CliRunner().invoke(main, ["extract", str(source), "--out", str(out), *QUICK]).exit_code == 0
    return folder


def run(words: list[str]):
    return CliRunner().invoke(main, words)


@pytest.mark.parametrize("line", [line for line in commands("bash") if line.startswith("make ")])
def test_make_targets_exist(line):
    done = subprocess.run(["make", "-n", *line.split()[1:]], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", [line for line in commands("bash") if "cuepack" in line])
def test_the_first_commands_run_as_they_stand(folder, monkeypatch, line):
    monkeypatch.chdir(folder)
    words = shlex.split(line)
    assert words[0] == ".venv/bin/cuepack"
    result = run(words[1:])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_run(folder, block):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=folder,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_commands_for_real_data_run_on_the_sample(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    for number, line in enumerate(commands("text")):
        words = [STAND_INS.get(word, word) for word in shlex.split(line)[1:]]
        if words[0] == "extract":
            words[words.index("--out") + 1] = str(tmp_path / f"out{number}")
            first = first_id(folder / "demo")
        if words[0] == "rerun":
            words[1], words[2] = "demo", first
            words += ["--no-prefect"]
        elif words[0] != "inspect":
            words += QUICK
        result = run(words)
        assert result.exit_code == 0, f"{line}\n{result.output}"


def first_id(out: Path) -> str:
    return min(path.stem for path in out.glob("packets/*/*.h5"))


def test_the_first_code_comes_before_word_150():
    before = README[: README.index("```")]
    assert len(before.split()) < 150


def test_links_and_pictures_are_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (REPOSITORY / target).exists(), target


@pytest.mark.slow
def test_make_demo_ends_with_valid_packets():
    done = subprocess.run(["make", "demo"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0 findings" in done.stdout
    assert len(list((REPOSITORY / "demo" / "packets").glob("*/*.h5"))) >= 3
    assert "mean J" in done.stdout
