"""`python -m tests.fuzz`: bad input for every reader, seeded, in child processes with limits of memory and time."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys

from tests.fuzz.running import Case, format_results, run

PARTS = ("sources", "packets", "commands")


def cases_of(only: str | None) -> dict[str, str]:
    """Name of each case -> the module that has it, of one part or of all that are there."""
    found: dict[str, str] = {}
    for part in PARTS if only is None else (only,):
        module = f"tests.fuzz.{part}"
        if importlib.util.find_spec(module) is None:
            continue
        cases: dict[str, Case] = importlib.import_module(module).CASES
        found |= dict.fromkeys(cases, module)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="one part [default: all]")
    parser.add_argument("--case", help="one case of it, by name")
    parser.add_argument("--count", type=int, default=200, help="inputs per case [default: 200]")
    parser.add_argument(
        "--seed", type=int, default=0, help="number of the first input; input n is made of seed n alone"
    )
    parser.add_argument("--seconds", type=float, default=30, help="longest time for one input [default: 30]")
    options = parser.parse_args()
    cases = cases_of(options.only)
    if options.case is not None:
        cases = {options.case: cases[options.case]}
    results = []
    for name, module in cases.items():
        results += run({name: module}, options.count, seed=options.seed, seconds=options.seconds)
        # A long run says how far it is.
        print(format_results(results[-1:]).rpartition("\n")[0], file=sys.stderr, flush=True)
    print(format_results(results))
    return 0 if all(result.good for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
