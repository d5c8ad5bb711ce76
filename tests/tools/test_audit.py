import json
import stat

import pytest

from tests.support import REPOSITORY
from tests.tools.audit import audit
from tests.tools.licences import locked


def program(folder, said, code=0):
    """A pip-audit that says `said`."""
    path = folder / "pip-audit"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\nexit {code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


FAULT = {"id": "PYSEC-1", "fix_versions": ["2.0"]}
GOOD = {"name": "a", "version": "1.0", "vulns": []}
BAD = {"name": "b", "version": "1.0", "vulns": [FAULT]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("listed", "code", "said"),
    [
        ([GOOD], 0, "1 packages audited by pypi, 0 not, 0 vulnerabilities"),
        ([GOOD, BAD], 1, "b 1.0: PYSEC-1, mended in 2.0"),
        ([GOOD, UNKNOWN], 0, "not audited  c: not found"),
        ([UNKNOWN], 2, "NOT AUDITED"),
    ],
)
def test_what_was_found_is_said(tmp_path, listed, code, said):
    found = audit(program(tmp_path, json.dumps({"dependencies": listed})), "pypi")
    assert found[0] == code
    assert said in found[1]


def test_a_service_that_cannot_be_reached_is_not_taken_for_good_news(tmp_path):
    assert audit(program(tmp_path, "no JSON", code=1), "pypi")[0] == 2
    assert audit(str(tmp_path / "none"), "pypi")[0] == 2


def test_every_package_is_listed_with_its_licence():
    page = (REPOSITORY / "docs" / "licences.md").read_text(encoding="utf-8")
    assert locked()
    assert [name for name, version in locked().items() if f"| {name} | {version} | " not in page] == []
