"""Maps, runs and reports; see `tests.mutation`."""

import argparse
import os
import tempfile
import time
from pathlib import Path

from tests.mutation import _plugins, _record, _trial
from tests.mutation._equivalent import why_equivalent
from tests.mutation._mutants import Mutant, mutate, sample
from tests.mutation._select import Map, read_map

MAPPED = (
    "tests/core tests/variants tests/population tests/test_gradients.py "
    "tests/training/test_trust.py tests/test_laws.py tests/test_laws_devices.py "
    "tests/test_symbolic.py tests/test_precision.py"
)


def main() -> None:
    """Does what the first argument says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["map", "run", "report"])
    parser.add_argument("--tests", nargs="*", help="to map; all that are near without")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "m")
    parser.add_argument("--sample", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=40.0, help="a mutant")
    parser.add_argument("--again", action="store_true", help="try survivors again")
    parser.add_argument(
        "--only", default="", help="mutants with this word in their key"
    )
    parser.add_argument("--slot", type=int, default=0, help="of --slots processes")
    parser.add_argument("--slots", type=int, default=1, help="that share a sample")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    (given.work / "maps").mkdir(exist_ok=True)
    if given.what == "map":
        make_map(given)
    elif given.what == "run":
        run(given)
    else:
        _record.write(given.work, given.sample, given.seed)


def make_map(given: argparse.Namespace) -> None:
    """Runs every test file once and writes what each test of it runs."""
    copy = _trial.prepare(given.work, given.slot)
    paths = [_trial.ROOT / name for name in given.tests or MAPPED.split()]
    found = [p for path in paths for p in sorted(path.rglob("test_*.py")) or [path]]
    for path in found:
        name = path.relative_to(_trial.ROOT).as_posix()
        file = given.work / "maps" / f"{name.replace('/', '+')}.json"
        if name == "tests/test_laws.py":
            watch: object = _plugins.Listing(file)
        else:
            watch = Lazily(copy, file)
        result = _trial.run_tests(copy, [name], 3600, watch)
        print(name, result.how, result.test, f"{result.seconds:.0f} s", flush=True)


class Lazily:
    """Starts the plugin in the fork: coverage traces the process it starts in."""

    def __init__(self, copy: Path, file: Path) -> None:
        """Sets what it is started with."""
        self.given = copy, file

    def pytest_configure(self, config: object) -> None:
        """Starts it."""
        config.pluginmanager.register(_plugins.Watching(*self.given))


def run(given: argparse.Namespace) -> None:
    """Tries the mutants of the sample that have not been tried, one after the other."""
    copy, known = _trial.prepare(given.work, given.slot), read_map(given.work / "maps")
    possible = _record.read_possible(given.work)
    results = _record.read_results(given.work)
    chosen = sample(given.work / "original", possible, given.sample, given.seed)
    for mutant in chosen[given.slot :: given.slots]:
        before = results.get(mutant.key)
        again = given.again and before is not None and before["how"] == "passed"
        again = again and why_equivalent(mutant) is None
        if (before is not None and not again) or given.only not in str(mutant):
            continue
        result = try_one(copy, mutant, known, given.seconds)
        _record.append_result(given.work, mutant, result)
        print(time.strftime("%H:%M:%S"), result.how, result.seconds, mutant.key, "|",
              mutant.after, "|", result.test, flush=True)  # fmt: skip


def try_one(copy: Path, mutant: Mutant, known: Map, seconds: float) -> _trial.Result:
    """Returns what came of one mutant."""
    path = copy / mutant.file
    source, taken = path.read_text(), path.stat()
    tests, expected = known.choose(mutant, source, seconds)
    path.write_text(mutate(source, mutant) or "")
    try:
        return _trial.run_tests(copy, tests, 120 + 12 * expected, _plugins.Stopping())
    finally:
        path.write_text(source)
        os.utime(path, ns=(taken.st_atime_ns, taken.st_mtime_ns))


if __name__ == "__main__":
    main()
