"""Running many experiments, several at a time, each in a process of its own."""

import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue
from typing import Any

from jaxbn.experiments._harness import Settings

QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""Flags of XLA at the size smoke, where two thirds of the time are for compiling."""


def run_these(each: Mapping[str, Settings], jobs: int) -> int:
    """Runs experiments by name; returns the exit code.

    Each is a process of its own, so that it starts JAX with the devices it needs, and
    that one which fails is named and ends no other. What it says is shown when it ends.
    """
    failed = []
    pool = workers(min(jobs, len(each)))
    try:
        ends = {pool.submit(run_apart, name, each[name]): name for name in each}
        for end in as_completed(ends):
            try:
                code, said = end.result()
            except Exception as error:  # A process that could not be started.
                code, said = 1, f"{type(error).__name__}: {error}"
            print(f"# {ends[end]}\n{said}\n", end="", flush=True)
            failed += [ends[end]] if code else []
    finally:  # Interrupted, it starts no more.
        pool.shutdown(cancel_futures=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def workers(jobs: int) -> ThreadPoolExecutor:
    """Returns threads, each of which starts processes on its own share of the cores.

    Experiments side by side on all cores wait for each other's threads, while a core
    is enough for small networks: measured with five seeds of an MLP and batches of 16,
    a step takes 1.2 ms on one core and no less on two. On Linux a process runs on the
    cores of the thread that starts it; elsewhere, and with one job, on all of them.
    """
    if jobs == 1 or not hasattr(os, "sched_setaffinity"):
        return ThreadPoolExecutor(jobs)
    left: SimpleQueue[list[int]] = SimpleQueue()
    for share in shares(sorted(os.sched_getaffinity(0)), jobs):
        left.put(share)

    def keep_to_share() -> None:
        with contextlib.suppress(OSError):  # Where a container forbids it.
            os.sched_setaffinity(0, left.get())

    return ThreadPoolExecutor(jobs, initializer=keep_to_share)


def shares(cores: list[int], jobs: int) -> list[list[int]]:
    """Returns the cores of each job; several jobs have the same one if there are more.

    Example:
        >>> shares([0, 1, 2], 2), shares([0, 1], 3)
        ([[0, 2], [1]], [[0], [1], [0]])
    """
    return [cores[i::jobs] or [cores[i % len(cores)]] for i in range(jobs)]


def run_apart(name: str, settings: Settings) -> tuple[int, str]:
    """Runs an experiment in a process; returns its exit code and what it said."""
    print(f"{name} begins\n", end="", flush=True)
    own = dataclasses.replace(settings, jobs=1)
    command = [sys.executable, "-m", "jaxbn.experiments", name, *flags(own)]
    out: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    out["errors"] = "replace"
    if settings.size == "smoke":
        known = os.environ.get("XLA_FLAGS", "")
        out["env"] = {**os.environ, "XLA_FLAGS": f"{known} {QUICK}".strip()}
    done = subprocess.run(command, **out)
    return done.returncode, done.stdout


def flags(settings: Settings) -> list[str]:
    """Returns the flags that make these settings."""
    given = dataclasses.asdict(settings).items()
    return [f"--{key}={value}" for key, value in given if value is not None]
