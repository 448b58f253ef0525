"""Results: what an experiment found becomes a table, a picture and numbers on disk.

The numbers are what counts: table, verdicts and picture are made of them, here and
again by `report` and `verify`, so that a criterion can change without a run.
"""

import datetime
import io
import json
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxbn.experiments._fingerprint import fingerprint, versions
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._numbers import as_plain
from jaxbn.experiments._verdicts import HELD, judge
from jaxbn.training._files import write_json, write_text, write_whole

NUMBERS, TABLE, FIGURE = "results.json", "table.md", "figure.png"
"""The files of an experiment in its workdir."""
COLORS = 128
"""Of the palette of a picture, which keeps it light."""


def cell(value: Any) -> str:
    """Returns a cell of the table: of several numbers the mean and the spread."""
    if isinstance(value, list | tuple | np.ndarray | jax.Array):
        each = np.asarray(value, float)
        if not np.isfinite(each).all():
            lost = int((~np.isfinite(each)).sum())
            return "diverged" if lost == each.size else f"{lost} diverged"
        spread = each.std(ddof=1) if each.size > 1 else 0.0
        # As many digits as the smaller of the two needs, two at least.
        size = max(abs(each.mean()), 1e-12)
        digits = min(max(2, 2 - math.floor(math.log10(size)) - 1), 6)
        return f"{each.mean():.{digits}f} +- {spread:.{digits}f}"
    return str(value)


def markdown(columns: Any, rows: Any) -> str:
    """Returns a table in Markdown."""
    lines = [list(columns), ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def as_table(result: Result) -> str:
    """Returns the table and the verdicts in Markdown."""
    rows = [[cell(value) for value in row] for row in result.rows]
    lines = []
    for verdict in verdicts_of(result):
        outcome = verdict["outcome"]
        outcome = outcome if outcome == HELD else f"**{outcome}**"
        source = f"; source: {verdict['source']}" if verdict["source"] else ""
        said = f"{verdict['numbers']}; p = {verdict['p']:.2g}{source}"
        lines.append(f"- {outcome}: {verdict['claim']} ({said})")
    return f"{markdown(result.columns, rows)}\n\n" + "\n".join(lines) + "\n"


def figure_png(result: Result) -> bytes:
    """Returns the picture of an experiment as a PNG of few colours."""
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=result.figsize, layout="constrained")
    result.draw(figure)
    drawn, light = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=100)
    image = Image.open(drawn).convert("RGB").quantize(COLORS)
    image.save(light, "PNG", optimize=True)
    return light.getvalue()


def as_record(
    name: str,
    source: str,
    settings: Settings,
    seeds: Sequence[int],
    seconds: float,
    numbers: Any,
) -> dict[str, Any]:
    """Returns what is kept of a run.

    Args:
        name: of the experiment.
        source: of its claims.
        settings: it was asked for with; paths are not recorded.
        seeds: that were run in the end.
        seconds: it took.
        numbers: that it measured, as JSON can hold them.
    """
    return {
        "experiment": name,
        "source": source,
        "settings": recorded(settings),
        "seeds": list(seeds),
        "measured_by": fingerprint(name, "measure"),
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "seconds": round(seconds, 1),
        "numbers": numbers,
    }


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Writes what is kept of a run."""
    write_json(folder / NUMBERS, record)


def write_results(folder: Path, record: dict[str, Any], result: Result) -> str:
    """Writes the files of an experiment; returns its table.

    Args:
        folder: of the files.
        record: of the run, from `as_record` or read from the folder.
        result: what its numbers show.
    """
    table, picture = as_table(result), figure_png(result)
    verdicts = as_plain(verdicts_of(result))
    write_whole(folder / FIGURE, lambda path: path.write_bytes(picture))
    write_text(folder / TABLE, table)
    shown = {"shown_by": fingerprint(record["experiment"], "show")}
    write_record(folder, {**record, **shown, "verdicts": verdicts})
    return table


def verdicts_of(result: Result) -> list[dict[str, Any]]:
    """Returns the claims with outcomes, intervals and bounds."""
    found = []
    judged = zip(result.verdicts, judge(result.verdicts), strict=True)
    for verdict, (outcome, p) in judged:
        criteria = [
            dict(zip(("mean", "low", "high"), criterion.interval(), strict=True))
            | {"above": criterion.low, "below": criterion.high, "name": criterion.name}
            for criterion in verdict.criteria
        ]
        said = {key: getattr(verdict, key) for key in ("chosen", "changed", "source")}
        said |= {"outcome": outcome, "p": p, "numbers": verdict.numbers}
        found.append({"claim": verdict.claim, **said, "criteria": criteria})
    return found


def recorded(settings: Settings) -> dict[str, Any]:
    """Returns the settings that decide the numbers, without paths."""
    keys = ("seeds", "most_seeds", "first_seed")
    keys += ("size", "dataset", "num_devices", "parallel")
    return {key: getattr(settings, key) for key in keys}


def read_record(folder: Path) -> dict[str, Any] | None:
    """Returns what is kept of the run in a folder; None if there is none."""
    path = folder / NUMBERS
    return json.loads(path.read_text()) if path.exists() else None


def stale(name: str, record: dict[str, Any], settings: dict[str, Any]) -> str:
    """Returns why a result is not what a run would give today, in words; '' if it is.

    Other versions of packages are no reason: they are named beside the result.

    Args:
        name: of the experiment.
        record: of the result.
        settings: to run with today, from `recorded`.
    """
    kept = record["settings"]
    for key, value in settings.items():
        if kept.get(key) != value:
            return f"{key} was {kept.get(key)!r} and is {value!r}"
    if record.get("measured_by") != fingerprint(name, "measure"):
        return "the code that measures has changed"
    return ""


def machine() -> str:
    """Returns what ran it, in words."""
    kind = jax.devices()[0].device_kind
    return f"{platform.machine()}, {jax.device_count()} x {kind}, jax {jax.__version__}"
