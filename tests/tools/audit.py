"""Known vulnerabilities of the packages in constraints.txt, by pip-audit (`make audit` installs it apart).

    python -m tests.tools.audit PIP_AUDIT [--service pypi|osv]

Exit code 0: none is known; 1: some are; 2: the service could not be asked, so nothing is known either way.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from tests.support import REPOSITORY

PATIENCE_S = 300


def audit(program: str, service: str) -> tuple[int, str]:
    """Exit code and what is to be said."""
    command = [program, "--requirement", str(REPOSITORY / "constraints.txt"), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", "--vulnerability-service", service, "--timeout", "20"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 2, f"NOT AUDITED: {error}"
    try:
        listed: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        return 2, f"NOT AUDITED: pip-audit could not ask {service} ({said[-1][:300]}); run it where that can be reached"
    skipped = [f"{each['name']}: {each['skip_reason']}" for each in listed if "skip_reason" in each]
    found = [
        f"{each['name']} {each['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'none yet'}"
        for each in listed
        for fault in each.get("vulns", ())
    ]
    audited = len(listed) - len(skipped)
    if not audited:
        return 2, f"NOT AUDITED: {service} knows none of the packages; the first: {skipped[:1]}"
    lines = [f"{audited} packages audited by {service}, {len(skipped)} not, {len(found)} vulnerabilities"]
    return (1 if found else 0), "\n".join([*lines, *(f"not audited  {each}" for each in skipped), *found])


def main() -> None:
    """Asks, prints, exits."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.audit")
    parser.add_argument("program", help="path of pip-audit")
    parser.add_argument("--service", choices=("pypi", "osv"), default="pypi")
    given = parser.parse_args()
    code, text = audit(given.program, given.service)
    print(text)
    sys.exit(code)


if __name__ == "__main__":
    main()
