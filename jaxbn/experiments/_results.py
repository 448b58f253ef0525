"""Results: what an experiment found becomes a table, verdicts and a picture on disk.

All are made of its numbers, here and again by `verify`, so that a criterion can change
without a run; `_records` has what is kept beside them.
"""

import io
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxbn.experiments._draw import spread
from jaxbn.experiments._fingerprint import fingerprint
from jaxbn.experiments._harness import Result
from jaxbn.experiments._numbers import as_plain
from jaxbn.experiments._registry import module_of
from jaxbn.experiments._verdicts import HELD, LEVEL, judge
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
        # As many digits as the smaller of the two needs, two at least.
        size = max(abs(each.mean()), 1e-12)
        digits = min(max(2, 2 - math.floor(math.log10(size)) - 1), 6)
        return f"{each.mean():.{digits}f} +- {spread(each):.{digits}f}"
    return str(value)


def markdown(columns: Any, rows: Any) -> str:
    """Returns a table in Markdown."""
    lines = [list(columns), ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def as_table(result: Result, level: float = LEVEL) -> str:
    """Returns the table and the verdicts, at a level, in Markdown."""
    rows = [[cell(value) for value in row] for row in result.rows]
    lines = []
    for verdict in verdicts_of(result, level):
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


def write_results(
    folder: Path, record: dict[str, Any], result: Result, level: float
) -> str:
    """Writes the files of an experiment; returns its table.

    Args:
        folder: of the files.
        record: of the run, from `as_record` or read from the folder.
        result: what its numbers show.
        level: of its verdicts.
    """
    table, picture = as_table(result, level), figure_png(result)
    verdicts = as_plain(verdicts_of(result, level))
    write_whole(folder / FIGURE, lambda path: path.write_bytes(picture))
    write_text(folder / TABLE, table)
    name = record["experiment"]
    shown = {"source": module_of(name).SOURCE, "shown_by": fingerprint(name, "show")}
    write_json(folder / NUMBERS, {**record, **shown, "verdicts": verdicts})
    return table


def verdicts_of(result: Result, level: float = LEVEL) -> list[dict[str, Any]]:
    """Returns the claims with outcomes at a level, intervals and bounds."""
    found = []
    judged = zip(result.verdicts, judge(result.verdicts, level), strict=True)
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
