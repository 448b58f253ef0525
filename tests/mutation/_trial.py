"""One trial: a fork that runs some tests in a copy of the repository.

The process that forks has imported JAX and what else the tests import, but nothing of
jaxbn, and no backend has started: threads would not survive. What XLA compiles is kept
in one folder for all trials. Bytecode is written while nothing is changed, and then
only read: that of a file changed twice in a second would pass for that of the other
change.
"""

import importlib
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]

HEAVY = (
    "jax jax.numpy flax.linen flax.nnx optax orbax.checkpoint hypothesis pytest numpy "
    "sklearn.datasets matplotlib tensorboardX rich.console coverage jax.test_util "
    "jax.experimental.jet chex PIL.Image scipy.stats"
)

NO_BYTECODE = shutil.ignore_patterns("__pycache__")


class Result(NamedTuple):
    """What came of a trial.

    Attributes:
        passed: whether all tests did.
        how: 'passed', 'failed', 'timeout', or 'crashed'.
        test: the first that failed.
        seconds: that it took.
    """

    passed: bool
    how: str
    test: str
    seconds: float


def prepare(work: Path, slot: int) -> Path:
    """Returns a copy with the tests of now, and imports what they import.

    The library stays that of the first time in the folder `work`.
    """
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(work / "programs")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    copy, original = work / f"copy{slot}", work / "original"
    if not original.exists():
        shutil.copytree(ROOT / "jaxbn", original / "jaxbn", ignore=NO_BYTECODE)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy)
    shutil.copytree(ROOT / "tests", copy / "tests", ignore=NO_BYTECODE)
    for name in ("pyproject.toml", "train.py"):
        shutil.copy(ROOT / name, copy)
    for name in HEAVY.split():
        try:
            importlib.import_module(name)
        except ImportError:
            print(f"{name} is not installed", file=sys.stderr)
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(work / "bytecode")
    assert not any(name.split(".")[0] == "jaxbn" for name in sys.modules)
    return copy


def run_tests(copy: Path, tests: Iterable[str], limit: float, plugin: Any) -> Result:
    """Runs tests in a fork until one fails; `limit` in seconds."""
    output, start = copy.with_suffix(".txt"), time.monotonic()
    child = os.fork()
    if child == 0:
        os.setsid()
        with output.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = 99
        try:
            code = _test_here(copy, list(tests), plugin)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    status = None
    while time.monotonic() - start < limit and status is None:
        done, found = os.waitpid(child, os.WNOHANG)
        status = found if done else None
        time.sleep(0.05)
    if status is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return Result(False, "timeout", "", time.monotonic() - start)
    code, seconds = os.waitstatus_to_exitcode(status), time.monotonic() - start
    text = output.read_text(errors="replace")
    lines = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
    test = lines[0].split(" ", 1)[1].split(" - ")[0] if lines else ""
    how = {0: "passed", 1: "failed", 2: "failed"}.get(code, "crashed")
    return Result(code == 0, how, test, round(seconds, 1))


def _test_here(copy: Path, tests: list[str], plugin: Any) -> int:
    import pytest

    os.chdir(copy)
    kept = [path for path in sys.path if path and Path(path).resolve() != ROOT]
    sys.path[:] = [str(copy), *kept]
    for name in [n for n in sys.modules if n.split(".")[0] == "tests"]:
        del sys.modules[name]
    given = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:xdist"]
    given += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*given, *tests], plugins=[plugin]))
