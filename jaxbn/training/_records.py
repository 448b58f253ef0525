"""Records: what a run leaves to be read by people and programs.

`metrics.jsonl` holds nothing that depends on the clock, so that a resumed run and an
uninterrupted one write the same bytes; times are in `timing.jsonl`. Every file is
rewritten whole, from text that is kept, and a checkpoint holds the rows compressed in
blocks, each of them once: the thousandth epoch of a long run costs what the first did.
"""

import base64
import contextlib
import csv
import importlib.metadata
import io
import json
import platform
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

import jaxbn
from jaxbn.training._config import TrainConfig
from jaxbn.training._files import write_json, write_text
from jaxbn.training._loggers import open_loggers

Row = dict[str, Any]
BLOCK = 64
"""Rows that are compressed together."""
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "chex", "orbax-checkpoint")


class Records:
    """Writes the rows of a run to its workdir as they come.

    Args:
        config: of the run.
        workdir: where.
        past: `packed` of an earlier part of the run, which is being resumed.
    """

    def __init__(self, config: TrainConfig, workdir: Path, past: Any):
        self.workdir = workdir
        self.rows: list[Row] = []
        self._lines: list[str] = []
        self._blocks: list[str] = []
        self._table: list[str] = []
        self._names: dict[str, None] = {}
        for line in unpack(past).splitlines():
            self._note(json.loads(line))
        last = self.rows[-1]["step"] if self.rows else None
        self.loggers = open_loggers(config, workdir, last)

    @property
    def text(self) -> str:
        """The rows, each as a line of JSON."""
        return "".join(self._lines)

    @property
    def packed(self) -> Row:
        """The rows, ready for JSON: 'blocks', compressed, and the 'rest' as text."""
        rest = self._lines[BLOCK * len(self._blocks) :]
        return {"blocks": list(self._blocks), "rest": "".join(rest)}

    def add(self, row: Row) -> None:
        """Adds a row: 'epoch', 'step', 'norm' and what was measured."""
        self._note(row)
        values = {
            f"{name}/{row['norm']}": value
            for name, value in row.items()
            if name not in ("epoch", "step", "norm") and value is not None
        }
        for logger in self.loggers:
            logger.add(row["step"], values)

    def _note(self, row: Row) -> None:
        self.rows.append(row)
        self._lines.append(json.dumps(row, allow_nan=False) + "\n")
        if len(self._lines) % BLOCK == 0:
            self._blocks.append(pack("".join(self._lines[-BLOCK:])))
        if row.keys() <= self._names.keys():
            self._table.append(as_csv([row], self._names))
        else:  # A new column: every row of the table has another form.
            self._names |= dict.fromkeys(row)
            self._table = [as_csv([], self._names, header=True)]
            self._table += [as_csv([row], self._names) for row in self.rows]

    def write(self) -> None:
        """Writes metrics.jsonl, metrics.csv; loggers show what they have."""
        write_text(self.workdir / "metrics.jsonl", self.text)
        write_text(self.workdir / "metrics.csv", "".join(self._table))
        for logger in self.loggers:
            logger.flush()

    def add_timing(self, timing: Row) -> None:
        """Appends to timing.jsonl, which nothing is resumed from."""
        with (self.workdir / "timing.jsonl").open("a") as file:
            file.write(json.dumps(timing) + "\n")

    def close(self, failed: bool = False) -> None:
        """Ends the loggers."""
        with contextlib.ExitStack() as stack:  # All, whatever becomes of one.
            for logger in self.loggers:
                stack.callback(logger.close, failed)


def pack(text: str) -> str:
    """Returns text compressed, as text."""
    return base64.b64encode(zlib.compress(text.encode())).decode()


def unpack(rows: Any) -> str:
    """Returns the lines of what `Records.packed` gave; or of a list, or lines."""
    if isinstance(rows, list):  # As runs until 2026-11-28 have them.
        return "".join(f"{json.dumps(row)}\n" for row in rows)
    if isinstance(rows, str):
        return rows
    blocks = (zlib.decompress(base64.b64decode(block)) for block in rows["blocks"])
    return b"".join(blocks).decode() + rows["rest"]


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
