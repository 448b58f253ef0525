"""Records: what a run leaves to be read by people and programs.

`metrics.jsonl` holds nothing that depends on the clock, so that a resumed run and an
uninterrupted one write the same bytes; times are in `timing.jsonl`. Every file is
rewritten whole, from text that is kept: an epoch costs the thousandth of a long run
what it cost the first.
"""

import contextlib
import csv
import importlib.metadata
import io
import json
import platform
from collections.abc import Iterable
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
        past: `text` of an earlier part of the run, which is being resumed.
    """

    def __init__(self, workdir: Path, past: str):
        from tensorboardX import SummaryWriter

        self.workdir = workdir
        self.rows: list[Row] = []
        self._lines: list[str] = []
        self._table: list[str] = []
        self._names: dict[str, None] = {}
        for line in past.splitlines():
            self._note(json.loads(line))
        purge = self.rows[-1]["step"] + 1 if self.rows else None
        self.events = SummaryWriter(
            str(workdir / "events"), purge_step=purge, write_to_disk=True
        )

    @property
    def text(self) -> str:
        """The rows, each as a line of JSON."""
        return "".join(self._lines)

    def add(self, row: Row) -> None:
        """Adds a row: 'epoch', 'step', 'norm' and what was measured."""
        self._note(row)
        for name, value in row.items():
            if name not in ("epoch", "step", "norm") and value is not None:
                self.events.add_scalar(f"{name}/{row['norm']}", value, row["step"])

    def _note(self, row: Row) -> None:
        self.rows.append(row)
        self._lines.append(json.dumps(row, allow_nan=False) + "\n")
        if row.keys() <= self._names.keys():
            self._table.append(as_csv([row], self._names))
        else:  # A new column: every row of the table has another form.
            self._names |= dict.fromkeys(row)
            self._table = [as_csv([], self._names, header=True)]
            self._table += [as_csv([row], self._names) for row in self.rows]

    def write(self) -> None:
        """Writes metrics.jsonl, metrics.csv and the event file."""
        write_text(self.workdir / "metrics.jsonl", self.text)
        write_text(self.workdir / "metrics.csv", "".join(self._table))
        self.events.flush()

    def add_timing(self, timing: Row) -> None:
        """Appends to timing.jsonl, which nothing is resumed from."""
        with (self.workdir / "timing.jsonl").open("a") as file:
            file.write(json.dumps(timing) + "\n")

    def close(self) -> None:
        """Closes the event file."""
        self.events.close()


def as_csv(rows: list[Row], names: Iterable[str], header: bool = False) -> str:
    """Returns rows as lines of CSV with the columns `names`, or a line of these."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(names), lineterminator="\n")
    if header:
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
