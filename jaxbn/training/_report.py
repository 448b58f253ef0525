"""The report: what a run says, records and draws. Only the leading process has one.

Everything here is about the past of the run, and goes into its checkpoints, so that a
resumed run leaves the files that an uninterrupted one would have.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxbn.data import Dataset
from jaxbn.training._config import TrainConfig
from jaxbn.training._console import Console
from jaxbn.training._files import write_json
from jaxbn.training._parallel import Parallel
from jaxbn.training._plots import plot_activations, plot_curves
from jaxbn.training._records import Records, write_environment

Row = dict[str, Any]


class Report:
    """What has been said and measured.

    Args:
        config: of the run.
        workdir: where it is written; None in processes that do not lead, which keep
            quiet.
    """

    def __init__(self, config: TrainConfig, workdir: Path | None):
        self.config, self.workdir = config, workdir
        self.console = Console(quiet=workdir is None)
        self.histograms: list[Row] = []
        self.best: dict[str, Any] = {}
        self.records: Records | None = None

    def open(self, past: Row, devices: tuple[jax.Device, ...]) -> None:
        """Goes on from the record of a checkpoint, {} for a fresh run."""
        self.best = dict(past.get("best", {}))
        self.histograms = [as_text(entry) for entry in past.get("histograms", [])]
        if self.workdir is not None:
            self.records = Records(self.config, self.workdir, past.get("rows", ""))
            write_environment(self.workdir, devices)

    def close(self, failed: bool = False) -> None:
        """Takes the bar away and closes the files."""
        self.console.stop()
        if self.records is not None:
            self.records.close(failed)

    def record(self) -> Row:
        """Returns what `open` goes on from, ready for JSON."""
        rows = self.records.packed if self.records is not None else ""
        return {"rows": rows, "histograms": self.histograms, "best": self.best}

    def introduce(
        self,
        parallel: Parallel,
        together: str,
        dataset: Dataset,
        steps: int,
        sizes: dict[str, int],
    ) -> None:
        """Says what is about to be done.

        Args:
            parallel: how the run is spread.
            together: what is normalized together, in words.
            dataset: what is learned.
            steps: in an epoch.
            sizes: how many parameters each arm has.
        """
        config, devices = self.config, parallel.devices
        kind = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
        several = jax.process_count()
        processes = f" of {several} processes" if several > 1 else ""
        self.console.say(f"workdir {self.workdir}")
        self.console.say(
            f"devices {kind}{processes}, {parallel.mode}; batch {config.batch_size} "
            f"global, {config.batch_size // len(devices)} local, {together}"
        )
        counts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        self.console.say(
            f"{config.dataset}: {len(dataset.train.labels):,} training and "
            f"{len(dataset.test.labels):,} test examples; {steps} steps an epoch, "
            f"{config.num_epochs} epochs; {config.model}, parameters: {counts}"
        )

    def add(self, row: Row, speed: float) -> None:
        """Records and says what an evaluation found."""
        self.note_best(row)
        self.console.report(row, self.config.num_epochs, speed)
        if self.records is not None:
            self.records.add(row)

    def add_histograms(self, entry: Row) -> None:
        """Keeps what the layers of an arm saw; of long runs in evenly spaced epochs."""
        entries = [*self.histograms, as_text(entry)]
        self.histograms = thinned(entries, self.config.eval_every)

    def note_best(self, row: Row) -> None:
        """Remembers the step at which the first arm did best on the test split."""
        if row["norm"] != self.config.norms[0] or row["test_loss"] is None:
            return
        kind = {"ema": "", "precise": "_precise", "batch": "_batch"}
        suffix = kind[self.config.eval_stats]
        if f"test_loss{suffix}" not in row:  # A norm without statistics.
            suffix = ""
        score = row.get(f"test_accuracy{suffix}", -row[f"test_loss{suffix}"])
        if not self.best or score > self.best["score"]:
            self.best = {"step": row["step"], "score": score}

    def say(self, text: str) -> None:
        """Says a line to whoever watches."""
        self.console.say(text)

    def write(self) -> None:
        """Writes the rows so far."""
        if self.records is not None:
            self.records.write()

    def add_timing(self, timing: Row) -> None:
        """Records what depends on the clock."""
        if self.records is not None:
            self.records.add_timing(timing)

    def conclude(self, step: int, seconds: float) -> Row:
        """Draws the pictures, writes and says the summary, and returns it."""
        self.console.stop()
        if self.workdir is None or self.records is None:
            return {}
        self.records.write()  # Whole, whatever became of them since.
        rows = self.records.rows[-len(self.config.norms) :]
        title = f"{self.config.model} on {self.config.dataset}"
        plot_curves(self.workdir / "curves.png", self.records.rows, title)
        path = self.workdir / "activations.png"
        histograms = [json.loads(entry["text"]) for entry in self.histograms]
        plot_activations(path, histograms, f"{title}: what enters each relu")
        summary = {"step": step, "seconds": seconds, "best": self.best}
        summary |= {"final": {row["norm"]: row for row in rows}}
        write_json(self.workdir / "summary.json", summary)
        self.console.conclude(rows, self.workdir)
        return summary


def as_text(entry: Row) -> Row:
    """Returns an entry as its 'epoch' and 'text', which is made once."""
    if "text" in entry:
        return entry
    return {"epoch": entry["epoch"], "text": json.dumps(entry, allow_nan=False)}


def thinned(entries: list[Row], every: int, most: int = 64) -> list[Row]:
    """Returns entries of at most `most` evenly spaced evaluations, and of the last.

    The spacing is a power of two, so that a longer run keeps what a shorter one kept.

    Args:
        entries: with an 'epoch' each, one or several of an epoch.
        every: epochs between evaluations.
        most: evaluations.
    """
    newest = entries[-1]["epoch"]
    spacing = 1
    while newest > most * every * spacing:
        spacing *= 2
    return [
        entry
        for entry in entries
        if entry["epoch"] == newest or (entry["epoch"] // every - 1) % spacing == 0
    ]


def size_of(params: Any) -> int:
    """Returns how many numbers there are in a tree of arrays."""
    return sum(int(np.prod(p.shape)) for p in jax.tree.leaves(params))
