"""`jaxbn inspect`: what the batch norms of a run or a file hold."""

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro


def inspect(
    path: Annotated[Path, tyro.conf.Positional],
    norm: str | None = None,
    drift: bool = False,
    data_dir: str | None = None,
    json: bool = False,
) -> None:
    """Shows the batch norms of a run of train.py or of a safetensors file.

    A channel is dead if its variance is at most a millionth of the median of its layer,
    or its scale is 0. Example: jaxbn inspect runs/digits --drift

    Args:
        path: The workdir of a run, or a file with PyTorch's or Flax's names.
        norm: Which of the norms of a run; the first by default.
        drift: Compare the statistics with those of training examples, in deviations.
        data_dir: Where the data set of the run lies, for --drift.
        json: Print JSON instead of a table.
    """
    from jaxbn.cli._read import read

    found = read(path, norm)
    rows = {name: row_of(layer) for name, layer in found.layers.items()}
    if drift:
        if found.run is None:
            raise ValueError(
                f"--drift needs the data of a run, and {path} is a file; pass a workdir"
            )
        for name, shift in shifts(found.run, data_dir).items():
            rows[name]["drift"] = shift
    momentum = found.run.config.bn_momentum if found.run else None
    if json:
        said = {"what": found.what, "momentum": momentum, "layers": rows}
        print(json_module.dumps(said, indent=2))
        return
    known = "unknown" if momentum is None else momentum
    print(f"{path}: {found.what}; momentum {known}")
    print(as_table(rows))


def row_of(layer: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns what is said of a layer; of several domains, of all together."""
    mean, var = layer["mean"], layer["var"]  # [C], or [domains, C].
    scale = layer.get("scale", np.ones(1))
    still = var <= 1e-6 * np.median(var)
    dead = np.unique(np.nonzero(still | (scale == 0))[-1])
    return {
        "channels": var.shape[-1],
        "largest_mean": float(np.abs(mean).max()),
        "smallest_var": float(var.min()),
        "largest_var": float(var.max()),
        "largest_scale": float(np.abs(scale).max()),
        "dead": dead.tolist(),
        "initial": bool((mean == 0).all() and (var == 1).all()),
        "finite": all(bool(np.isfinite(a).all()) for a in (mean, var, scale)),
    }


def shifts(run: Any, data_dir: str | None) -> dict[str, float]:
    """Returns the median shift of each layer's mean on 1,000 training examples.

    Of a layer with statistics of several domains, that of the domain furthest off.
    """
    from jaxbn.data import load, read_rows
    from jaxbn.diagnostics import measure_drift

    data = load(
        run.config.dataset,
        data_dir=data_dir or run.config.data_dir,
        train_limit=min(run.config.train_limit or 1000, 1000),
        test_limit=1,
        seed=run.config.seed,
        image_size=run.config.image_size,
    )
    inputs, labels = read_rows(data.train, np.arange(min(len(data.train.labels), 1000)))
    domain = np.asarray(labels) // max(data.num_classes, 1)
    args, told = run.arguments(inputs, domain)
    drifts = measure_drift(run.model, run.variables, *args, **told)
    found: dict[str, float] = {}
    for drift in drifts:
        path = drift.path.partition("[")[0]  # 'bn1[0]' is the first domain of bn1.
        found[path] = max(found.get(path, 0.0), float(np.median(drift.batch.shift)))
    return found


def as_table(rows: dict[str, dict[str, Any]]) -> str:
    """Returns the rows as a table, a line a layer."""
    drift = any("drift" in row for row in rows.values())
    head = ["layer", "channels", "|mean| up to", "variance", "|scale| up to", "dead"]
    lines = [head + ["drift"] * drift]
    for name, row in rows.items():
        notes = [str(len(row["dead"]))]
        notes += ["initial"] * row["initial"] + ["not finite"] * (not row["finite"])
        line = [
            name or "(the model)",
            str(row["channels"]),
            f"{row['largest_mean']:.3g}",
            f"{row['smallest_var']:.3g} to {row['largest_var']:.3g}",
            f"{row['largest_scale']:.3g}",
            ", ".join(notes),
        ]
        lines.append(line + [f"{row['drift']:.2f}" if "drift" in row else ""] * drift)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )
