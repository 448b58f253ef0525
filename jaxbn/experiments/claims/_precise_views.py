"""The table and the picture of `precise_statistics`."""

from typing import Any

import numpy as np

from jaxbn.experiments._draw import band, bars

ENDS = ("first", "last")
STYLES = {
    "EMA 0.9": {"color": "C0", "marker": "o"},
    "debiased 0.9": {"color": "C0", "marker": "s", "linestyle": "--"},
    "EMA 0.99": {"color": "C1", "marker": "D"},
    "debiased 0.99": {"color": "C1", "marker": "^", "linestyle": "--"},
    "precise": {"color": "C2", "marker": "v", "linestyle": ":"},
}
PAPER = "Wu and Johnson"
BY_IMAGES = ((28.1, 24.0, 23.57, 23.54), (45.5, 40.1, 39.44, 39.42))
"""Errors of `PAPER` with 10, 100, 1,000 and 10,000 images: trained, and at epoch 30."""
BY_PASSES = (28.8, 24.0, 23.5, 23.5, 23.5)
"""Those of passes of 2, 10, 100, 1,000 and of all, trained with ghost batches of 32."""


def table_of(found: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Returns the columns and rows of the table, a row for each kind of statistics."""
    epochs, samples, passes = found["epochs"], found["samples"], found["passes"]
    columns = ["test error % with"]
    columns += [f"batch {batch}, {end} epoch" for batch in epochs for end in ENDS]
    columns += [f"ghost batches of {ghost}, last epoch" for ghost in passes]
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
            band(axes[0, i], epochs, values, kind, markersize=4, **STYLES[kind])
        axes[0, i].set(title=f"batches of {int(batch):,}", xlabel="epoch")
        axes[0, i].set_ylabel("test error, %")
        for momentum, values in arm["outside"].items():
            line = "-" if momentum == "0.9" else "--"
            style = {"color": f"C{i}", "linestyle": line, "marker": "os"[i]}
            label = f"{momentum}, batches of {int(batch):,}"
            band(axes[1, 0], epochs, 100 * np.asarray(values), label, **style)
    axes[1, 0].set(xlabel="epoch", ylabel="averages outside batch means, %")
    counts, sizes = (np.asarray(found[key]).tolist() for key in ("counts", "sizes"))
    for i, (name, errors) in enumerate(found["samples"].items()):
        values = np.asarray(errors).reshape(-1, len(counts))  # Seeds and draws.
        style = {"color": f"C{i}", "marker": "os"[i], "markersize": 4}
        band(axes[1, 1], counts, values, name, **style)
        if len(counts) == len(BY_IMAGES[i]):
            label = f"{PAPER}, {('trained', 'epoch 30')[i]}"
            unfilled(axes[1, 1], counts, BY_IMAGES[i], label, **style)
    running = [arm["errors"]["EMA 0.9"] for arm in found["epochs"].values()]
    for i, (values, at) in enumerate(zip(running, (-1, 0), strict=True)):
        level = float(np.mean(np.asarray(values)[:, at]))
        label = f"EMA 0.9, {('trained', 'one epoch')[i]}"
        axes[1, 1].axhline(level, color=f"C{i}", linestyle=(":", "--")[i], label=label)
    axes[1, 1].set(xscale="log", xlabel="images measured", ylabel="test error, %")
    for i, (ghost, arm) in enumerate(found["passes"].items()):
        style = {"color": f"C{i}", "marker": "os"[i], "markersize": 4}
        band(axes[2, 0], sizes, arm["total"], f"ghost batches of {ghost}", **style)
    if len(sizes) == len(BY_PASSES):
        style = {"color": "C0", "marker": "o", "markersize": 4}
        unfilled(axes[2, 0], sizes, BY_PASSES, f"{PAPER}, batches of 32", **style)
    axes[2, 0].set(xscale="log", xlabel="images a pass", ylabel="test error, %")
    arms = found["passes"]
    shown = {
        "total variance": [np.asarray(arm["total"])[:, 0] for arm in arms.values()],
        "mean of variances": [np.asarray(arm["mean"]) for arm in arms.values()],
    }
    for i, values in enumerate(shown.values()):
        values += [np.asarray(arm["by_class"])[:, i] for arm in arms.values()]
    kinds = ("passes of 2", "of a class")
    names = [f"{kind},\nghosts {ghost}" for kind in kinds for ghost in arms]
    stacked = {kind: np.stack(values, -1) for kind, values in shown.items()}
    bars(axes[2, 1], names, stacked)
    axes[2, 1].set(xlabel="measured in, trained with", ylabel="test error, %")
    axes[2, 1].set(ylim=(0, 1.5 * stacked["total variance"].max()))
    for each in axes.flat:
        each.tick_params(labelsize=9)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17), "ncols": 2}
        each.legend(fontsize=9, **(below if each in axes[1] else {}))


def unfilled(axes: Any, x: Any, values: Any, label: str, **style: Any) -> None:
    """Draws what the source reports as marks without a line."""
    style |= {"linestyle": "", "markerfacecolor": "none"}
    axes.plot(x, values, label=label, **style)
