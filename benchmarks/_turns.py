"""Turns: several ways to do one thing, timed one after the other, over and over."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Timing(NamedTuple):
    """Milliseconds of a call.

    Attributes:
        median: of all calls.
        least: the shortest.
    """

    median: float
    least: float


def in_turn(
    runs: dict[str, Callable[[], Any]], repeats: int, calls: int = 1
) -> dict[str, Timing]:
    """Returns the time of each of `runs`, in rounds, after one that is not counted.

    What the machine does besides then falls on all of them alike. Several `calls` in a
    turn are handed to the device one behind the other, and waited for at the end.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            for _ in range(calls - 1):
                run()
            jax.block_until_ready(run())
            if turn:
                times[name].append(1e3 * (time.perf_counter() - began) / calls)
    return {k: Timing(statistics.median(v), min(v)) for k, v in times.items()}
