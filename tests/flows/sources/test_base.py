import re

import pytest

from flows.sources.base import safe_id


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
