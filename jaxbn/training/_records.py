"""Records: what a run leaves to be read by people and programs.

`metrics.jsonl` holds nothing that depends on the clock, so that a resumed run and an
uninterrupted one write the same bytes; times are in `timing.jsonl`. Every file is
rewritten whole.
"""

import contextlib
import csv
import importlib.metadata
import io
import json
import platform
from pathlib import Path
from typing import Any

import jax

import jaxbn
from jaxbn.training._files import write_json, write_text

Row = dict[str, Any]
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "chex", "orbax-checkpoint")


class Records:
    """Writes the rows of a run to its workdir as they come.

    Args:
        workdir: where.
        rows: those of an earlier part of the run, which is being resumed.
    """

    def __init__(self, workdir: Path, rows: list[Row]):
        from tensorboardX import SummaryWriter

        self.workdir = workdir
        self.rows = list(rows)
        purge = rows[-1]["step"] + 1 if rows else None
        self.events = SummaryWriter(
            str(workdir / "events"), purge_step=purge, write_to_disk=True
        )

    def add(self, row: Row) -> None:
        """Adds a row: 'epoch', 'step', 'norm' and what was measured."""
        self.rows.append(row)
        for name, value in row.items():
            if name not in ("epoch", "step", "norm") and value is not None:
                self.events.add_scalar(f"{name}/{row['norm']}", value, row["step"])

    def write(self) -> None:
        """Writes metrics.jsonl, metrics.csv and the event file."""
        lines = [json.dumps(row, allow_nan=False) for row in self.rows]
        write_text(self.workdir / "metrics.jsonl", "".join(f"{ln}\n" for ln in lines))
        write_text(self.workdir / "metrics.csv", as_csv(self.rows))
        self.events.flush()

    def add_timing(self, timing: Row) -> None:
        """Appends to timing.jsonl, which nothing is resumed from."""
        with (self.workdir / "timing.jsonl").open("a") as file:
            file.write(json.dumps(timing) + "\n")

    def close(self) -> None:
        """Closes the event file."""
        self.events.close()


def as_csv(rows: list[Row]) -> str:
    """Returns the rows as CSV, with a column for every name that occurs."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    """Returns the version of each package, None where it is not installed as one."""
    found: dict[str, str | None] = dict.fromkeys(packages)
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def write_environment(workdir: Path, devices: tuple[jax.Device, ...]) -> None:
    """Writes environment.json: versions and devices."""
    environment = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": {"jaxbn": jaxbn.__version__} | versions(_PACKAGES),
        "devices": [f"{device.platform}: {device.device_kind}" for device in devices],
    }
    write_json(workdir / "environment.json", environment)
