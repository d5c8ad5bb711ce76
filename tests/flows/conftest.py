import pytest
from fsspec.implementations.memory import MemoryFileSystem

from flows import remote


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """An empty memory:// file system, a cache of its own, and no waiting between tries."""
    monkeypatch.setenv("CUEPACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAITS_S", (0.0, 0.0))
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield MemoryFileSystem()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
