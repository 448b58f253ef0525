"""A benchmark as a command: it measures, prints its table, and writes its figures."""

import argparse
import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

Figures = dict[str, Any]


def run_alone(
    measure: Callable[..., Figures], table: Callable[[Figures], str], doc: str | None
) -> None:
    """Measures as the flags say: `--json FILE`, and one an option of `measure`."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = inspect.signature(measure).parameters
    for name, option in options.items():
        kind = str if option.default is None else type(option.default)
        parser.add_argument(f"--{name}", type=kind, default=option.default)
    given = vars(parser.parse_args())
    figures = measure(**{name: given[name] for name in options})
    print(table(figures))
    if given["json"]:
        write(given["json"], json.dumps(figures, indent=1))


def split_cpu(devices: int) -> None:
    """Splits the CPU into virtual devices, unless it is split so already."""
    if jax.config.jax_num_cpu_devices != devices:
        jax.config.update("jax_num_cpu_devices", devices)


def write(path: Path, text: str) -> None:
    """Writes a file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text)
    os.replace(unfinished, path)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Returns a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
