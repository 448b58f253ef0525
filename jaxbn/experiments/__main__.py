"""The command line of the experiments; see the top of the package."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tyro

from jaxbn.experiments._harness import Settings, check_settings
from jaxbn.experiments._registry import EXPERIMENTS, SHARING, module_of
from jaxbn.experiments._report import write_report
from jaxbn.experiments._results import NUMBERS, finished, write_results
from jaxbn.training import ConfigError

QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""Flags of XLA at the size smoke, where two thirds of the time are for compiling."""


def main(arguments: list[str]) -> int:
    """Lists the experiments, or runs what is named; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        for name in EXPERIMENTS:
            print(f"{name:<26} {(module_of(name).__doc__ or '').splitlines()[0]}")
        print(f"{'all':<26} All of them, each in a folder of the workdir.")
        print(f"{'report':<26} A page of all results that lie in the workdir.")
        return 0
    name, *flags = arguments
    if name not in (*EXPERIMENTS, "all", "report"):
        known = ", ".join((*EXPERIMENTS, "all", "report"))
        print(f"no experiment is called {name!r}, expected one of {known}")
        return 2
    settings = tyro.cli(Settings, prog=f"jaxbn.experiments {name}", args=flags)
    if name == "report":
        return report(Path(settings.workdir))
    return run_all(settings) if name == "all" else run(name, settings)


def run_all(settings: Settings) -> int:
    """Runs all experiments that have no results of these settings, and the report.

    Each is a process of its own, so that it starts JAX with the devices it needs, and
    that one which fails is named and ends no other. What it says is shown when it ends.
    """
    try:
        check_settings(settings)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    failed = []
    with ThreadPoolExecutor(settings.jobs) as pool:
        ends = pool.map(functools.partial(run_apart, settings), EXPERIMENTS)
        for name, (code, said) in zip(EXPERIMENTS, ends, strict=True):
            print(f"# {name}\n{said}", flush=True)
            failed += [name] if code else []
    code = report(Path(settings.workdir))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else code


def run_apart(settings: Settings, name: str) -> tuple[int, str]:
    """Runs an experiment in a process; returns its exit code and what it said."""
    folder = Path(settings.workdir) / name
    own = dataclasses.replace(settings, workdir=str(folder), jobs=1)
    if finished(as_used(name, own)):
        date = json.loads((folder / NUMBERS).read_text())["date"]
        return 0, f"has results of {date}; remove {folder} to run it again\n"
    command = [sys.executable, "-m", "jaxbn.experiments", name, *flags(own)]
    out: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    if settings.size == "smoke":
        known = os.environ.get("XLA_FLAGS", "")
        out["env"] = {**os.environ, "XLA_FLAGS": f"{known} {QUICK}".strip()}
    done = subprocess.run(command, **out)
    return done.returncode, done.stdout


def flags(settings: Settings) -> list[str]:
    """Returns the flags that make these settings."""
    given = dataclasses.asdict(settings).items()
    return [f"--{key}={value}" for key, value in given if value is not None]


def as_used(name: str, settings: Settings) -> Settings:
    """Returns the settings without devices where an experiment has no use for them."""
    if name in SHARING:
        return settings
    return dataclasses.replace(settings, num_devices=None)


def run(name: str, settings: Settings) -> int:
    """Runs an experiment and writes its files; returns the exit code."""
    module, began = module_of(name), time.perf_counter()
    used = as_used(name, settings)
    if used != settings:
        print(f"{name} runs on one device: num_devices is not used")
    try:
        result = module.run(check_settings(used))
        seconds = time.perf_counter() - began
        said = write_results(name, module.SOURCE, used, result, seconds)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    print(said, flush=True)
    return 0


def report(workdir: Path) -> int:
    """Writes the page of what lies in the workdir; returns the exit code."""
    try:
        print(write_report(workdir))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
