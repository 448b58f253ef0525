"""Results: what an experiment found becomes a table, a picture and numbers on disk."""

import datetime
import io
import json
import math
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxbn.experiments._harness import Result, Settings
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


def as_table(result: Result, seeds: int) -> str:
    """Returns the table and the verdicts in Markdown."""
    rows = [[cell(value) for value in row] for row in result.rows]
    lines = []
    for verdict in result.verdicts:
        outcome = verdict.outcome(seeds)
        outcome = outcome if outcome == "held" else f"**{outcome}**"
        source = f"; source: {verdict.source}" if verdict.source else ""
        lines.append(f"- {outcome}: {verdict.claim} ({verdict.numbers}{source})")
    return f"{markdown(result.columns, rows)}\n\n" + "\n".join(lines) + "\n"


def as_plain(value: Any) -> Any:
    """Returns what JSON can hold: lists for arrays, None for what is not finite."""
    if isinstance(value, dict):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, np.ndarray | jax.Array):
        return as_plain(np.asarray(value).tolist())
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


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
    name: str, source: str, settings: Settings, result: Result, seconds: float
) -> str:
    """Writes the files of an experiment; returns what to print.

    Args:
        name: of the experiment.
        source: of its claims.
        settings: it was run with; paths are not recorded.
        result: what it found.
        seconds: it took.
    """
    folder = Path(settings.workdir)
    table = as_table(result, settings.seeds)
    picture = figure_png(result)
    found = {
        "experiment": name,
        "source": source,
        "settings": recorded(settings),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "seconds": round(seconds, 1),
        "verdicts": [
            {**verdict._asdict(), "outcome": verdict.outcome(settings.seeds)}
            for verdict in result.verdicts
        ],
        "numbers": result.numbers,
    }
    write_whole(folder / FIGURE, lambda path: path.write_bytes(picture))
    write_text(folder / TABLE, table)
    write_json(folder / NUMBERS, as_plain(found))
    return f"{table}\n{seconds:.0f} s; {folder / FIGURE}"


def recorded(settings: Settings) -> dict[str, Any]:
    """Returns the settings that decide the numbers, without paths."""
    keys = ("seeds", "size", "dataset", "num_devices", "parallel")
    return {key: getattr(settings, key) for key in keys}


def finished(settings: Settings) -> bool:
    """Returns whether the workdir holds results of these settings already."""
    path = Path(settings.workdir) / NUMBERS
    return path.exists() and json.loads(path.read_text())["settings"] == recorded(
        settings
    )


def machine() -> str:
    """Returns what ran it, in words."""
    kind = jax.devices()[0].device_kind
    return f"{platform.machine()}, {jax.device_count()} x {kind}, jax {jax.__version__}"
