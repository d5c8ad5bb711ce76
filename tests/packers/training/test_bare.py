"""Packets are read, and trained on, where NumPy and h5py are installed and nothing else."""

import subprocess
import sys
import tomllib

from tests.packers.training import packets
from tests.support import REPOSITORY

BARE = """
import sys
from importlib.abc import MetaPathFinder

class OnlyBare(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        first = name.partition(".")[0]
        if first not in {"numpy", "h5py", "packers", "extractors", "flows"} | sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named '{first}'", name=first)

sys.meta_path.insert(0, OnlyBare())
"""


def bare(code, *arguments):
    command = [sys.executable, "-c", BARE + code, *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def test_plain_pip_install_brings_numpy_and_h5py():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    names = {requirement.partition(">")[0] for requirement in project["dependencies"]}
    assert names == {"numpy", "h5py"}
    assert any("extract" in requirement for requirement in project["optional-dependencies"]["dev"])


def test_packets_are_read_and_batched_with_these_alone(tmp_path):
    for number in range(3):
        packets.write(tmp_path, f"e{number}", 8)
    done = bare(
        "from packers.reader import Packet\n"
        "from packers.training import Depth, PacketBatches, PacketDataset, Window\n"
        "d = PacketDataset(sys.argv[1], Window(2, 1), [Depth(size=(12, 16))], 'train', normalise='standard')\n"
        "print(sum(len(batch['pixels']) for batch in PacketBatches(d, 4)), len(d))\n"
        "from packers.training import PacketLoader\n"
        "PacketLoader(d)",
        tmp_path,
    )
    assert done.stdout.split()[0] == done.stdout.split()[1]
    assert "pip install 'cuepack[train]'" in done.stderr


def test_the_command_names_the_extra_that_is_missing():
    done = bare("from flows.entry import main; main()")
    assert done.returncode == 2
    assert "pip install 'cuepack[extract]'" in done.stderr
    assert "Traceback" not in done.stderr
