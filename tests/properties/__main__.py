"""Runs many examples and writes down what came of it; see `tests.properties`."""

import argparse
import datetime
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.properties._tally import in_a_line, tally

TESTS = Path(__file__).parents[1]
STACK = ("jax", "jaxlib", "flax", "numpy", "hypothesis")


class Record:
    """A plugin that keeps a file of what was run, rewritten after each test."""

    def __init__(self, path: Path, seed: int):
        self.path, self.seed = path, seed
        self.reports, self.start = [], time.time()

    def pytest_runtest_logreport(self, report) -> None:
        """Adds the report of a test."""
        self.reports.append(report)
        if report.when != "call":
            return
        laws = tally(self.reports)
        programs = set().union(*(law["programs"] for law in laws.values()))
        written = {
            "date": datetime.date.today().isoformat(),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in STACK},
            "seed": self.seed,
            "examples": sum(law["examples"] for law in laws.values()),
            "programs": len(programs),
            "seconds": round(time.time() - self.start),
            "failures": [text for law in laws.values() for text in law["failures"]],
            "laws": {
                name: {
                    "examples": law["examples"],
                    "programs": len(law["programs"]),
                    "seconds": round(law["seconds"]),
                    "failures": len(law["failures"]),
                }
                for name, law in sorted(laws.items())
            },
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    """Runs rounds of the properties in this process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--seed", type=int, help="drawn, and written down, if missing")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    given = parser.parse_args()
    seed = given.seed
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "big")
    os.environ["JAXBN_PROPERTIES"] = str(given.examples)
    os.environ["JAXBN_PROPERTIES_SEED"] = str(seed)
    record = Record(given.out.absolute(), seed)
    command = [str(TESTS / "test_properties.py"), "-q", "--tb=short"]
    failed = pytest.main([*command, "-p", "no:cacheprovider"], plugins=[record])
    print(in_a_line(tally(record.reports)))
    sys.exit(failed)


if __name__ == "__main__":
    main()
