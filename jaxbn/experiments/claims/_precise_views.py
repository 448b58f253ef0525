"""The table and the picture of `precise_statistics`."""

from typing import Any

import numpy as np

from jaxbn.experiments._draw import band, bars

ENDS = ("first", "last")
STYLES = {
    "EMA 0.9": {"color": "C0"},
    "debiased 0.9": {"color": "C0", "linestyle": "--"},
    "EMA 0.99": {"color": "C1"},
    "debiased 0.99": {"color": "C1", "linestyle": "--"},
    "precise": {"color": "C2"},
}


def table_of(found: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Returns the columns and rows of the table, a row for each kind of statistics."""
    epochs, samples, passes = found["epochs"], found["samples"], found["passes"]
    columns = ["test error % with"]
    columns += [f"batch {batch}, {end} epoch" for batch in epochs for end in ENDS]
    columns += [f"ghosts of {ghost}" for ghost in passes]
    rows: list[list[Any]] = []
    for kind in next(iter(epochs.values()))["errors"]:
        each = [np.asarray(arm["errors"][kind]) for arm in epochs.values()]
        ends = [errors[:, at] for errors in each for at in (0, -1)]
        rows.append([kind, *ends, *("" for _ in passes)])
    for i, count in enumerate(found["counts"]):
        middle = [np.asarray(samples[name])[..., i].mean(1) for name in samples]
        rows.append(
            [f"precise, {count} images", "", *middle, "", *("" for _ in passes)]
        )
    for i, size in enumerate(found["sizes"]):
        each = [np.asarray(arm["total"])[:, i] for arm in passes.values()]
        rows.append([f"precise, passes of {size}", *[""] * 4, *each])
    named = {"mean of variances, passes of 2": [arm["mean"] for arm in passes.values()]}
    for i, kind in enumerate(("precise", "mean of variances")):
        each = [np.asarray(arm["by_class"])[:, i] for arm in passes.values()]
        named[f"{kind}, passes of 100 of a class"] = each
    rows += [[name, *[""] * 4, *each] for name, each in named.items()]
    return columns, rows


def draw(found: dict[str, Any], figure: Any) -> None:
    """Draws errors by epoch, shares outside, and errors by samples and by passes."""
    axes = figure.subplots(3, 2)
    for i, (batch, arm) in enumerate(found["epochs"].items()):
        epochs = 1 + np.arange(np.shape(arm["errors"]["precise"])[1])
        for kind, values in arm["errors"].items():
            style = STYLES[kind]
            band(axes[0, i], epochs, values, kind, marker="o", markersize=3, **style)
        axes[0, i].set(title=f"batches of {batch}", xlabel="epoch")
        axes[0, i].set_ylabel("test error, %")
        axes[0, i].legend(fontsize=8)
        for momentum, values in arm["outside"].items():
            style = {"color": f"C{i}", "linestyle": "-" if momentum == "0.9" else "--"}
            label = f"{momentum}, batches of {batch}"
            band(axes[1, 0], epochs, 100 * np.asarray(values), label, **style)
    axes[1, 0].set(xlabel="epoch", ylabel="averages outside batch means, %")
    axes[1, 0].legend(fontsize=8)
    for name, errors in found["samples"].items():
        values = np.asarray(errors).reshape(-1, len(found["counts"]))
        band(axes[1, 1], found["counts"], values, name, marker="o", markersize=3)
    running = [arm["errors"]["EMA 0.9"] for arm in found["epochs"].values()]
    for i, (values, at) in enumerate(zip(running, (-1, 0), strict=True)):
        level = float(np.mean(np.asarray(values)[:, at]))
        label = "EMA 0.9 of the same"
        axes[1, 1].axhline(level, color=f"C{i}", linestyle=":", label=label)
    axes[1, 1].set(xscale="log", xlabel="images measured", ylabel="test error, %")
    axes[1, 1].legend(fontsize=8)
    for ghost, arm in found["passes"].items():
        label = f"trained with {ghost}"
        band(axes[2, 0], found["sizes"], arm["total"], label, marker="o", markersize=3)
    axes[2, 0].set(xscale="log", xlabel="images a pass", ylabel="test error, %")
    axes[2, 0].legend(fontsize=8)
    arms = found["passes"]
    shown = {
        "total variance": [np.asarray(arm["total"])[:, 0] for arm in arms.values()],
        "mean of variances": [np.asarray(arm["mean"]) for arm in arms.values()],
    }
    for i, values in enumerate(shown.values()):
        values += [np.asarray(arm["by_class"])[:, i] for arm in arms.values()]
    kinds = ("passes of 2", "100 of a class")
    names = [f"{kind},\ntrained with {ghost}" for kind in kinds for ghost in arms]
    stacked = {kind: np.stack(values, -1) for kind, values in shown.items()}
    bars(axes[2, 1], names, stacked)
    axes[2, 1].tick_params("x", labelsize=7)
    axes[2, 1].set(
        ylabel="test error, %", ylim=(0, 1.3 * stacked["total variance"].max())
    )
    axes[2, 1].legend(fontsize=8)
