"""A benchmark as a command: it measures, prints its table, and writes its figures."""

import argparse
import ctypes
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxbn.training._files import write_json

Figures = dict[str, Any]


def run_alone(
    measure: Callable[..., Figures], table: Callable[[Figures], str], doc: str | None
) -> None:
    """Measures as the flags say: `--json FILE`, and one an option of `measure`.

    Where there is nothing to measure, with no figures, nothing is written.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = inspect.signature(measure).parameters
    for name, option in options.items():
        kind = type(option.default)
        parser.add_argument(f"--{name}", type=kind, default=option.default)
    given = vars(parser.parse_args())
    figures = measure(**{name: given[name] for name in options})
    print(table(figures))
    if given["json"] and figures:
        write_json(given["json"], figures)


def split_cpu(devices: int) -> None:
    """Splits the CPU into so many virtual devices, unless it has them already."""
    if jax.config.jax_num_cpu_devices < devices:
        jax.config.update("jax_num_cpu_devices", devices)


def keep_freed_memory() -> None:
    """Has the C library keep what is freed, so that who allocates pays no page faults.

    JAX's peers write their results where the last ones were; torch cannot be told to.
    """
    if sys.platform == "linux":
        library, map_at_most, trim_from = ctypes.CDLL(None), -4, -1
        library.mallopt(map_at_most, 0)
        library.mallopt(trim_from, 2**31 - 1)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Returns a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
