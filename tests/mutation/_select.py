"""Which tests a mutant is tried by: those that run the line, the quickest first."""

import json
from pathlib import Path
from typing import NamedTuple

from tests.mutation._mutants import Mutant, statement_lines


class Map(NamedTuple):
    """What is known of the tests.

    Attributes:
        seconds: that each takes.
        lines: of each file and line, the tests that run it.
    """

    seconds: dict[str, float]
    lines: dict[str, dict[int, set[str]]]

    def choose(
        self, mutant: Mutant, source: str, budget: float
    ) -> tuple[list[str], float]:
        """Returns tests of about `budget` seconds, and how long they take.

        Those that run the statement come first, then others that run the file: what
        runs on import, or is traced once, is credited to one test or to none. Tests of
        one file stay together.
        """
        of_file = self.lines.get(mutant.file, {})
        there = statement_lines(source, mutant.line)
        near = set().union(*(of_file.get(line, ()) for line in there))
        rest = set().union(*of_file.values()) - near
        order = [*sorted(near, key=self._price), *sorted(rest, key=self._price)]
        chosen, total = [], 0.0
        for test in order:
            if total + self.seconds[test] <= budget or not chosen:
                chosen.append(test)
                total += self.seconds[test]
        place = {}
        for test in chosen:
            place.setdefault(test.partition("::")[0], len(place))
        chosen.sort(key=lambda test: place[test.partition("::")[0]])
        return chosen, total

    def _price(self, test: str) -> tuple[float, str]:
        return self.seconds[test], test


def read_map(folder: Path) -> Map:
    """Returns what the files of a folder say."""
    seconds, lines = {}, {}
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text())
        seconds |= found["seconds"]
        for file, by_line in found["lines"].items():
            here = lines.setdefault(file, {})
            for line, tests in by_line.items():
                passed = {test for test in tests if test in found["seconds"]}
                here.setdefault(int(line), set()).update(passed)
    return Map(seconds, lines)
