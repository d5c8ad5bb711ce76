import builtins
import json

import numpy as np
import pytest

from extractors.errors import ConfigError
from packers.export.formats import check_request
from packers.export.swm_lance import check_table, write_lance
from packers.reader import Packet
from tests.packers.examples import write_example
from tests.packers.training import packets as many


def test_without_lance_the_export_says_how_it_is_installed(tmp_path, monkeypatch):
    found = builtins.__import__

    def without(name, *rest, **named):
        if name == "lancedb":
            raise ImportError(name)
        return found(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'cuepack\[lance\]'"):
        check_request("swm-lance", set(), tmp_path / "a.lance")


@pytest.mark.parametrize("name", ["a.h5", "there.lance", "missing/a.lance"])
def test_a_target_that_no_table_can_be_written_to_is_refused(tmp_path, name):
    (tmp_path / "there.lance").mkdir()
    with pytest.raises(ConfigError, match="wanted a new name in an existing folder"):
        check_table(tmp_path / name)


def test_rows_are_those_of_the_packets(tmp_path):
    lancedb = pytest.importorskip("lancedb", reason="the extra lance is not installed")
    packets = [write_example(tmp_path, "a", 5), write_example(tmp_path, "b", 70)]
    written = write_lance(packets, tmp_path / "t.lance", ["depth/metric", "contact"], names="study")
    assert (written.episodes, written.frames, written.too_short) == (2, 75, 1)
    table = lancedb.connect(str(tmp_path)).open_table("t").to_arrow()
    assert table["episode_idx"].to_pylist() == [0] * 5 + [1] * 70
    assert table["step_idx"].to_pylist() == [*range(5), *range(70)]
    with Packet(packets[1]) as packet:
        state = packet.read("state")
    for name in ("observation", "proprio", "state"):
        np.testing.assert_array_equal(np.array(table[name].to_pylist()[5:], np.float32), state)
    assert np.isfinite(np.array(table["depth"].to_pylist())).all()


def test_several_sources_are_one_table_with_padded_actions_and_a_column_that_names_them(tmp_path):
    lancedb = pytest.importorskip("lancedb", reason="the extra lance is not installed")
    paths = [many.write(tmp_path, "a", 7), many.write(tmp_path, "b", 9, action_width=14, source="arms")]
    write_lance(paths, tmp_path / "t.lance")
    table = lancedb.connect(str(tmp_path)).open_table("t").to_arrow()
    assert json.loads(table.schema.field("source_idx").metadata[b"names"]) == ["bridge", "arms"]
    assert table["source_idx"].to_pylist() == [0] * 7 + [1] * 9
    assert np.array(table["action_dims"].to_pylist()).sum(axis=1).tolist() == [7] * 7 + [14] * 9
