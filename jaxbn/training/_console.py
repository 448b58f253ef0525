"""What a run says: a few lines first, a bar while it works, a table at the end.

On a terminal the bar shows images a second, the time left and memory; into a pipe go
plain lines only.
"""

import resource
import sys
from pathlib import Path
from typing import Any

import rich.console
import rich.progress
import rich.table

from jaxbn.training._parallel import Parallel
from jaxbn.training._plots import describe

Row = dict[str, Any]


class Console:
    """Writes to standard output, and warnings to standard error.

    Args:
        quiet: whether to write nothing but warnings.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.out = rich.console.Console(highlight=False, soft_wrap=True, quiet=quiet)
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.fields[speed]}"),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[memory]}"),
            console=self.out,
            transient=True,
            disable=quiet or not self.out.is_terminal,
        )
        self.task = self.bar.add_task("training", speed="", memory="")

    def say(self, line: str) -> None:
        """Writes one line."""
        self.out.print(line, markup=False)

    def warn(self, line: str) -> None:
        """Writes one line to standard error."""
        print(line, file=sys.stderr, flush=True)

    def start(self, total: int, done: int) -> None:
        """Shows the bar, at `done` of `total` steps."""
        self.bar.update(self.task, total=total, completed=done)
        self.bar.start()

    def advance(self, done: int, images_per_second: float, memory: str) -> None:
        """Moves the bar."""
        speed = f"{images_per_second:,.0f} images/s"
        self.bar.update(self.task, completed=done, speed=speed, memory=memory)

    def stop(self) -> None:
        """Takes the bar away."""
        self.bar.stop()

    def report(self, row: Row, epochs: int, images_per_second: float) -> None:
        """Writes what an evaluation found, one line."""
        head = f"epoch {row['epoch']:>3}/{epochs}  {describe(row['norm']):<13}"
        loss = number(row.get("train_loss"), "{:.4f}")
        self.say(
            f"{head} train loss {loss}  test {scores(row)}  "
            f"{images_per_second:,.0f} images/s"
        )

    def conclude(self, rows: list[Row], workdir: Path) -> None:
        """Writes the table of the last evaluations, and where the pictures are."""
        classification = "test_accuracy" in rows[0]
        what = "accuracy" if classification else "loss"
        table = rich.table.Table(title=f"Test {what} after epoch {rows[0]['epoch']}")
        table.add_column("")
        for column in ("running", "precise", "mini-batch", "gap", "train loss"):
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(describe(row["norm"]), *cells(row, what))
            if f"test_{what}_averaged" in row:
                averaged = cells(row, what, "_averaged")[:-1]
                table.add_row("  averaged weights", *averaged, "")
            if "test_top5" in row:
                table.add_row("  top-5", *cells(row, "top5")[:-1], "")
        self.out.print(table)
        names = [n for n in ("curves.png", "activations.png") if (workdir / n).exists()]
        self.say(f"pictures: {', '.join(str(workdir / name) for name in names)}")


def scores(row: Row) -> str:
    """Returns the test scores of a row with each kind of statistics, and the gap."""
    what = "accuracy" if "test_accuracy" in row else "loss"
    running, precise, batch, gap, _ = cells(row, what)
    if precise == "":
        return f"{what} {running}"
    return (
        f"{what} {running} running, {precise} precise (gap {gap}), {batch} mini-batch"
    )


def cells(row: Row, what: str, whose: str = "") -> tuple[str, ...]:
    """Returns running, precise, mini-batch, gap and training loss as text."""
    form = "{:.2%}" if what in ("accuracy", "top5") else "{:.4g}"
    what += whose
    running, precise = row[f"test_{what}"], row.get(f"test_{what}_precise")
    texts = [number(running, form)]
    for kind in ("precise", "batch"):
        known = f"test_{what}_{kind}" in row
        texts.append(number(row.get(f"test_{what}_{kind}"), form) if known else "")
    both = running is not None and precise is not None
    signed = form.replace(":", ":+")
    texts.append(signed.format(running - precise) if both else "")
    return (*texts, number(row.get("train_loss"), "{:.4f}"))


def number(value: float | None, form: str) -> str:
    """Returns the number as text; None is one that was not finite."""
    return "diverged" if value is None else form.format(value)


def memory_in_use(parallel: Parallel) -> str:
    """Returns the peak memory: of a device of this process, or of it all on a CPU."""
    statistics = parallel.devices[parallel.local[0]].memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    if peak is None:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"{peak / 2**30:.1f} GiB"
