"""The ablation's table keeps up with the code."""

from pathlib import Path

import pytest

from tests.benchmarks.ablation import REPOSITORY, SWITCHES, counts


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: switch.name)
def test_what_a_switch_replaces_is_in_the_source_once(switch):
    assert (REPOSITORY / Path(switch.file)).read_text().count(switch.old) == 1


def test_lines_and_numbers_are_counted_without_words_and_indices(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.benchmarks.ablation.REPOSITORY", tmp_path)
    (tmp_path / "some.py").write_text(
        '"""Doc 7."""\n\n# 8\nA = 9.5\nB = [0, 1, 2, 255][3]\n\n\ndef f(x=-4):\n    """5."""\n'
    )
    assert counts(["some.py"]) == {"some.py": (9, 3, 2)}
