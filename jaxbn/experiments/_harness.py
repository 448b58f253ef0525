"""What experiments share: their flags, their verdicts, and the files they leave.

An experiment returns a `Result`; here it becomes `results.json`, `table.md` and
`figure.png` in the workdir, each whole or not there.
"""

import dataclasses
import math
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxbn.training._files import write_json, write_text, write_whole


@dataclasses.dataclass(frozen=True)
class Settings:
    """Runs an experiment and writes its table, figure and numbers."""

    workdir: str
    """Where results.json, table.md and figure.png are written."""
    seeds: int = 5
    """How many times everything is run, with other weights and batches."""
    size: Literal["smoke", "small", "full"] = "small"
    """smoke takes seconds, small some minutes on two cores, full an accelerator."""
    dataset: str = "digits"
    """digits, or any TFDS image classification set by name."""
    data_dir: str | None = None
    """Where prepared TFDS sets lie."""
    num_devices: int | None = None
    """How many devices; all accelerators, or a CPU split into eight, by default."""
    parallel: Literal["jit", "shard_map", "pmap"] = "pmap"
    """How they share a batch."""


class Verdict(NamedTuple):
    """Whether a claim held.

    Attributes:
        claim: in words, with its criterion.
        held: whether the criterion was met.
        numbers: that decided it, in words.
    """

    claim: str
    held: bool
    numbers: str


class Result(NamedTuple):
    """What an experiment found.

    Attributes:
        columns: names of the columns of the table.
        rows: of the table; a number of each seed is a list, shown as mean and spread.
        verdicts: on its claims.
        draw: `draw(figure)` fills a matplotlib figure.
        numbers: everything measured, ready for JSON.
        seconds: that it took.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    verdicts: Sequence[Verdict]
    draw: Callable[[Any], None]
    numbers: dict[str, Any]
    seconds: float


def paired(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Returns the mean of `a - b` over seeds, and half its 95 % confidence interval.

    Student's t with n - 1 degrees of freedom; infinite for a single seed.
    """
    from scipy import stats

    difference = np.subtract(a, b)
    n = len(difference)
    if n < 2:
        return float(difference.mean()), math.inf
    error = difference.std(ddof=1) / math.sqrt(n)
    return float(difference.mean()), float(error * stats.t.ppf(0.975, n - 1))


def greater(claim: str, a: Sequence[float], b: Sequence[float]) -> Verdict:
    """Returns the verdict on `a > b`: the interval of the difference lies above 0."""
    mean, half = paired(a, b)
    return Verdict(claim, mean - half > 0, f"difference {mean:.2f} +- {half:.2f}")


def cell(value: Any) -> str:
    """Returns a cell of the table: of several numbers the mean and the spread."""
    if isinstance(value, list | tuple | np.ndarray):
        spread = np.std(value, ddof=1) if len(value) > 1 else 0.0
        return f"{np.mean(value):.2f} +- {spread:.2f}"
    return str(value)


def as_table(result: Result) -> str:
    """Returns the table and the verdicts in Markdown."""
    lines = [list(result.columns), ["---"] * len(result.columns)]
    lines += [[cell(value) for value in row] for row in result.rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    verdicts = "\n".join(
        f"- {'held' if v.held else '**not reproduced**'}: {v.claim} ({v.numbers})"
        for v in result.verdicts
    )
    return f"{table}\n\n{verdicts}\n"


def write_results(name: str, settings: Settings, result: Result) -> str:
    """Writes the files of an experiment; returns what to print."""
    from matplotlib.figure import Figure

    folder = Path(settings.workdir)
    table = as_table(result)
    found = {
        "experiment": name,
        "settings": dataclasses.asdict(settings),
        "machine": f"{platform.machine()}, {jax.device_count()} x {_kind()}",
        "seconds": result.seconds,
        "numbers": result.numbers,
        "verdicts": [verdict._asdict() for verdict in result.verdicts],
    }
    write_json(folder / "results.json", found)
    write_text(folder / "table.md", table)
    figure = Figure(figsize=(10, 4), layout="constrained")
    result.draw(figure)
    write_whole(folder / "figure.png", lambda path: figure.savefig(path, dpi=110))
    return f"{table}\n{result.seconds:.0f} s; {folder / 'figure.png'}"


def _kind() -> str:
    return jax.devices()[0].device_kind
