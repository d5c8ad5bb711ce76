import re

import pytest

from flows.sources.base import safe_id, unique_id


@pytest.mark.parametrize(
    "text", ["../../etc/passwd", "a b/ü.x", "日本", "-", "..", "x" * 400, "put_\udcff\udcfe", "a\nb"]
)
def test_an_id_is_a_file_name_that_cannot_climb(text):
    identifier = safe_id(text)
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", identifier)
    assert ".." not in identifier
    assert len(identifier) < 200


def test_names_that_lose_everything_or_are_cut_stay_apart():
    assert safe_id("日本") != safe_id("中国")
    assert safe_id("x" * 400) != safe_id("x" * 401)


def test_ids_of_different_episodes_differ_and_a_long_one_is_cut_once():
    taken: set[str] = set()
    long = "x" * 400
    ids = [unique_id(text, f"{text}.{end}", taken) for text in ("a b", "A_B", long) for end in ("mp4", "mkv", "avi")]
    assert len({identifier.casefold() for identifier in ids}) == 9
    assert ids[0] == "a_b"
    assert unique_id(long, long, set()) == safe_id(long)
    assert all(len(identifier) < 220 for identifier in ids)


def test_an_id_does_not_depend_on_how_many_episodes_come_before():
    one, many = {"a_b"}, {f"e{k}" for k in range(9)} | {"a_b"}
    assert unique_id("a b", "a b", one) == unique_id("a b", "a b", many)
