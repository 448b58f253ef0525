"""The table and the picture of `residual_net`."""

from typing import Any

import numpy as np

from jaxbn.experiments._draw import MARKERS, band, bars
from jaxbn.experiments.claims._residual_claims import errors_of

CURVES = {
    "train_mb": "training, mini-batch",
    "train_pop": "training, population",
    "val_mb": "validation, mini-batch",
    "val_pop": "validation, population",
}
DIFFERENCES = {
    "gap": "validation - training",
    "cost": "population - mini-batch",
}
ENDS = {"val_pop": "regular", "frozen": "last fifth frozen"}
AVERAGES = {"moving": "EMA", "precise": "precise"}
LINES = ("-", "--", "-.", ":")
SOURCE_NAME = "Wu & Johnson"
SOURCE_SIZES = (1024, 512, 256, 128, 64, 32, 16, 8, 4, 2)
SOURCE_ERRORS = {
    "train_mb": (8.5, 8.5, 8.8, 9.2, 9.8, 10.7, 12.0, 13.5, 15.1, 16.5),
    "val_mb": (24.8, 24.8, 24.7, 24.7, 24.7, 24.5, 24.7, 25.1, 25.5, 26.0),
    "val_pop": (23.7, 23.7, 23.6, 23.4, 23.2, 23.4, 23.5, 24.3, 26.4, 32.5),
    "frozen": (24.5, 24.4, 24.4, 24.4, 24.2, 24.3, 23.9, 24.2, 24.3, 25.2),
}
"""Read off figures 5 and 6, ResNet-50 on ImageNet."""
SOURCE_SHIFT = {"clean": (23.4, 23.8), "contrast": (40.8, 33.1), "noise": (64.4, 52.5)}
"""Of table 4: with source and with target statistics."""
THEIRS: dict[str, Any] = {
    "marker": "D",
    "color": "black",
    "markerfacecolor": "none",
    "linestyle": "",
}


def table_of(found: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Returns the columns and rows of the table."""
    sizes, errors = [str(size) for size in found["sizes"]], errors_of(found)
    columns = ["error % (chance if diverged) at NBS", *sizes]
    rows = [[label, *errors[key].T] for key, label in CURVES.items()]
    rows.append(["validation, last fifth frozen", *errors["frozen"].T])
    for n, size in enumerate(sizes):
        of_one = np.asarray(found["val_mb"])[:, :, n]
        rows.append([f"validation, mini-batches of {size}", *of_one.T])
    rest = [""] * (len(sizes) - 2)
    rows.append(["statistics in training", "first third", "last epoch", *rest])
    for batch, arm in found["averages"].items():
        for kind, label in (("moving", "moving average"), ("precise", "precise")):
            each = np.asarray(arm[kind])
            early = each[:, : each.shape[1] // 3].mean(1)
            rows.append([f"{label}, batch {batch}", early, each[:, -1], *rest])
    rows.append(["images", "source statistics", "target statistics", *rest])
    for kind, each in found["shift"].items():
        rows.append([kind, each["source"], each["target"], *rest])
    wrong = found["shift"]["clean"]["of contrast"]
    return columns, [*rows, ["clean, statistics of contrast", wrong, "", *rest]]


def differences(errors: Any) -> dict[str, np.ndarray]:
    """Returns the generalization gap, and what the population's statistics cost."""
    return {
        "gap": errors["val_mb"] - errors["train_mb"],
        "cost": errors["val_pop"] - errors["val_mb"],
    }


def draw(found: dict[str, Any], figure: Any) -> None:
    """Draws all curves, and the source's numbers where it has some."""
    axes = figure.subplots(3, 2)
    errors = errors_of(found)
    theirs = {key: np.asarray(values) for key, values in SOURCE_ERRORS.items()}
    over_sizes(axes[0, 0], found["sizes"], errors, theirs, CURVES)
    axes[0, 0].set_ylabel("error, %")
    apart = differences(errors), differences(theirs)
    over_sizes(axes[0, 1], found["sizes"], *apart, DIFFERENCES)
    axes[0, 1].axhline(0, color="0.7", linewidth=0.8)
    axes[0, 1].set_ylabel("difference, points")
    over_epochs(axes[1, 0], found)
    over_sizes(axes[1, 1], found["sizes"], errors, theirs, ENDS)
    axes[1, 1].set_ylabel("validation error, %")
    of_test_batches(axes[2, 0], found)
    of_domains(axes[2, 1], found["shift"])
    for each in axes.flat:
        each.tick_params(labelsize=10)
        each.xaxis.label.set_size(10)
        each.yaxis.label.set_size(10)
        place = {"loc": "lower center", "bbox_to_anchor": (0.46, 1), "ncols": 2}
        tight = {"columnspacing": 1, "handlelength": 2.2, "handletextpad": 0.5}
        each.legend(fontsize=10, frameon=False, **place, **tight)


def over_sizes(
    axes: Any, sizes: Any, ours: Any, theirs: Any, labels: dict[str, str]
) -> None:
    """Draws values [S, NBS], and the source's as unfilled markers."""
    for i, (key, label) in enumerate(labels.items()):
        how = {"color": f"C{i}", "marker": MARKERS[i]}
        band(axes, sizes, ours[key], label, **how, linestyle=LINES[i], markersize=5)
        if key in theirs:
            marks = {"markerfacecolor": "none", "linestyle": "", "markersize": 7}
            axes.plot(SOURCE_SIZES, theirs[key], **how, **marks)
    said = {"marker": "o", "color": "0.3", "markerfacecolor": "none", "linestyle": ""}
    axes.plot([], [], label=SOURCE_NAME, **said)
    powers(axes, sorted({*map(int, sizes), 16, 64, 1024}))
    axes.set_xlabel("normalized together (NBS), images")


def powers(axes: Any, ticks: list[int]) -> None:
    """Gives an axis in powers of two ticks that are numbers."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


def over_epochs(axes: Any, found: dict[str, Any]) -> None:
    """Draws the errors after each epoch, of both batches and both statistics."""
    for i, (batch, arm) in enumerate(found["averages"].items()):
        for j, (kind, label) in enumerate(AVERAGES.items()):
            values = np.asarray(arm[kind])
            epochs = 1 + np.arange(values.shape[1])
            how = {"color": f"C{i}", "marker": MARKERS[2 * i + j], "markersize": 4}
            how |= {"linestyle": "--" if kind == "moving" else "-"}
            band(axes, epochs, values, f"{label}, batch {int(batch):,}", **how)
    axes.set(xlabel="epoch", ylabel="validation error, %")
    axes.xaxis.get_major_locator().set_params(integer=True)


def of_test_batches(axes: Any, found: dict[str, Any]) -> None:
    """Draws the errors against the size of test mini-batches, a line for each NBS."""
    sizes, tested = list(map(int, found["sizes"])), np.asarray(found["val_mb"])
    for i, size in enumerate(sizes):
        how = {"marker": MARKERS[i % len(MARKERS)], "linestyle": LINES[i % len(LINES)]}
        band(axes, sizes, tested[:, i], f"trained with {size}", **how, markersize=5)
    powers(axes, sizes)
    axes.set(xlabel="normalized together in test, images")
    axes.set_ylabel("validation error, %")


def of_domains(axes: Any, shift: dict[str, Any]) -> None:
    """Draws the errors on changed images with source and with target statistics."""
    groups = {
        f"{key} statistics": np.stack([each[key] for each in shift.values()], 1)
        for key in ("source", "target")
    }
    bars(axes, list(shift), groups)
    for patch in axes.patches[len(shift) :]:
        patch.set_hatch("//")
    for i, kind in enumerate(shift):
        if kind in SOURCE_SHIFT:
            axes.plot((i - 0.2, i + 0.2), SOURCE_SHIFT[kind], **THEIRS)
    axes.plot([], [], label=SOURCE_NAME, **THEIRS)
    axes.set(xlabel="validation images", ylabel="error, %")
