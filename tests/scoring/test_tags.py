"""FORMAT.md lists every tag and number that a verdict can hold."""

import re
from pathlib import Path

from tests.support import REPOSITORY

FORMAT = (REPOSITORY / "packers" / "FORMAT.md").read_text(encoding="utf-8")
LISTED = FORMAT.split("## Tags and quality numbers")[1].split("\n## ")[0]
SCORING = "".join(path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "scoring").glob("*.py")))
SOURCES = "".join(path.read_text(encoding="utf-8") for path in Path(REPOSITORY, "flows", "sources").glob("*.py"))


def test_every_tag_is_listed():
    tags = set(re.findall(r'card\.add\(\s*"([a-z-]+)"', SCORING)) | set(re.findall(r'tags\.add\("([a-z-]+)"', SCORING))
    tags |= set(re.findall(r'\("([a-z]+-frames)", "', SCORING))
    tags |= set(re.findall(r'tags\.a(?:dd|ppend)\("([a-z-]+)"', SOURCES))
    tags |= set(re.findall(r'tags = \("([a-z-]+)",\)', SOURCES))
    assert len(tags) > 35
    assert {tag for tag in tags if f"`{tag}`" not in LISTED} == set()


def test_every_number_is_listed():
    numbers = set(re.findall(r'card\.numbers\["([a-z_]+)"\]', SCORING))
    for block in re.findall(r"card\.numbers \|= \{(.*?)\}", SCORING, flags=re.DOTALL):
        numbers |= set(re.findall(r'"([a-z_]+)":', block))
    assert len(numbers) > 30
    assert {number for number in numbers if f"`{number}`" not in LISTED} == set()
