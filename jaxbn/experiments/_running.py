"""Running experiments: one here, or many side by side in processes of their own."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jaxbn.experiments._harness import Result, Settings, check_settings
from jaxbn.experiments._registry import SHARING, measure, module_of, show
from jaxbn.experiments._results import (
    FIGURE,
    as_record,
    read_record,
    recorded,
    stale,
    write_record,
    write_results,
)
from jaxbn.experiments._verdicts import LEAST_SEEDS, UNDECIDED, judge
from jaxbn.training import ConfigError

QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""Flags of XLA at the size smoke, where two thirds of the time are for compiling."""


def run(name: str, settings: Settings) -> int:
    """Runs an experiment and writes its files; returns the exit code.

    Where a claim is undecided after `seeds` seeds, all is run with `most_seeds`, once.
    """
    began = time.perf_counter()
    used = as_used(name, settings)
    if used != settings:
        print(f"{name} runs on one device: num_devices is not used")
    folder = Path(settings.workdir)

    def run_with(taken: Settings) -> tuple[dict[str, Any], Result]:
        numbers = measure(name, taken)
        seconds = time.perf_counter() - began
        source, seeds = module_of(name).SOURCE, taken.seed_numbers
        record = as_record(name, source, used, seeds, seconds, numbers)
        write_record(folder, record)  # Should judging or drawing fail, it is there.
        return record, show(name, numbers)

    try:
        record, result = run_with(used)
        undecided = [o.outcome == UNDECIDED for o in judge(result.verdicts)]
        if any(undecided) and wants_more(used):
            print(
                f"{name}: {sum(undecided)} of {len(undecided)} claims are undecided "
                f"with {used.seeds} seeds; goes on with {used.most_seeds}",
                flush=True,
            )
            more = dataclasses.replace(used, seeds=used.most_seeds)
            record, result = run_with(more)
        table = write_results(folder, record, result)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    print(f"{table}\n{record['seconds']:.0f} s; {folder / FIGURE}", flush=True)
    return 0


def wants_more(settings: Settings) -> bool:
    """Returns whether undecided claims get more seeds."""
    enough = LEAST_SEEDS <= settings.seeds < settings.most_seeds
    return settings.size != "smoke" and enough


def run_these(each: Mapping[str, Settings], jobs: int) -> int:
    """Runs experiments by name; returns the exit code.

    Each is a process of its own, so that it starts JAX with the devices it needs, and
    that one which fails is named and ends no other. What it says is shown when it ends.
    """
    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        ends = pool.map(run_apart, each, each.values())
        for name, (code, said) in zip(each, ends, strict=True):
            print(f"# {name}\n{said}", flush=True)
            failed += [name] if code else []
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def run_apart(name: str, settings: Settings) -> tuple[int, str]:
    """Runs an experiment in a process; returns its exit code and what it said."""
    folder = Path(settings.workdir)
    record = read_record(folder)
    if record and not stale(name, record, recorded(as_used(name, settings))):
        date = record["date"]
        return 0, f"has results of {date}; remove {folder} to run it again\n"
    own = dataclasses.replace(settings, jobs=1)
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


def checked(settings: Settings) -> int:
    """Returns 0 if settings can be run, and else says why not and returns 2."""
    try:
        check_settings(settings)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
