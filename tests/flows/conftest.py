import pytest
from fsspec.implementations.memory import MemoryFileSystem

from flows.remote import files as remote
from tests.flows.remote_places import extract, two_episodes


def _empty():
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """An empty memory:// file system, a cache of its own, and no waiting between tries."""
    monkeypatch.setenv("CUEPACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAITS_S", (0.0, 0.0))
    _empty()
    yield MemoryFileSystem()
    _empty()


@pytest.fixture(scope="module")
def packed_files(tmp_path_factory):
    """What memory:// holds after a run from memory://data/bridge_raw to memory://store/out: path -> bytes, time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CUEPACK_CACHE", str(tmp_path_factory.mktemp("cache")))
        _empty()
        outcome, _ = extract(two_episodes(), "memory://store/out")
        assert outcome.exit_code == 0, [row.get("error") for row in outcome.rows]
        files = {path: (file.getvalue(), file.created) for path, file in MemoryFileSystem.store.items()}
        _empty()
    return files
