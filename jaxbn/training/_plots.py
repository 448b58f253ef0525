"""Pictures: curves of all arms in one, and histograms of activations by epoch."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from jaxbn.training._files import write_whole

COLOURS = ("#1f6fb4", "#d1495b", "#3a7d44", "#8d5a97", "#b8860b", "#555555")


def plot_curves(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    """Draws loss and accuracy of all arms by epoch; training thin, test thick."""
    from matplotlib.figure import Figure

    arms = list(dict.fromkeys(row["norm"] for row in rows))
    accuracy = any("test_accuracy" in row for row in rows)
    figure = Figure(figsize=(9.0 if accuracy else 5.0, 3.8), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, 2 if accuracy else 1))
    kinds = (("loss", "loss"), ("accuracy", "accuracy"))[: len(axes)]
    for ax, (name, label) in zip(axes, kinds, strict=True):
        for arm, colour in zip(arms, itertools.cycle(COLOURS), strict=False):
            mine = [row for row in rows if row["norm"] == arm]
            epochs = [row["epoch"] for row in mine]
            for which, style in (("train", "--"), ("test", "-")):
                values = [row.get(f"{which}_{name}") for row in mine]
                values = [np.nan if value is None else value for value in values]
                ax.plot(
                    epochs,
                    values,
                    style,
                    color=colour,
                    linewidth=2 if which == "test" else 1.2,
                    marker="o" if len(epochs) == 1 else None,
                    label=f"{describe(arm)}, {which}",
                )
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_ylabel(label)
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    losses = [row.get("train_loss") for row in rows]
    if all(value is not None and value > 0 for value in losses):
        axes[0].set_yscale("log")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title)
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=110))


def plot_activations(
    path: Path, histograms: list[dict[str, Any]], title: str, most: int = 8
) -> None:
    """Draws the histogram of what enters each relu, one line above the other by epoch.

    Rows are arms, columns layers; a panel has its own range, which is what differs. A
    note says how much of the last histogram is outside of it or not finite.

    Args:
        path: of the picture.
        histograms: 'epoch', 'norm' and 'layers' of each evaluation.
        title: of the picture.
        most: epochs drawn, evenly chosen.
    """
    from matplotlib.figure import Figure

    arms = list(dict.fromkeys(entry["norm"] for entry in histograms))
    layers = list(histograms[0]["layers"])
    figure = Figure(
        figsize=(max(2.3 * len(layers), 4.5), 2.9 * len(arms)), layout="constrained"
    )
    panels = figure.subplots(len(arms), len(layers), squeeze=False)
    for arm, line, colour in zip(arms, panels, COLOURS, strict=False):
        mine = [entry for entry in histograms if entry["norm"] == arm]
        chosen = np.unique(np.linspace(0, len(mine) - 1, most).round().astype(int))
        shown = [mine[i] for i in chosen]
        for layer, ax in zip(layers, line, strict=True):
            for level, entry in enumerate(shown):
                _draw_ridge(ax, entry["layers"][layer], level, colour)
            last = shown[-1]["layers"][layer]
            ax.set_yticks(range(len(shown)), [entry["epoch"] for entry in shown])
            if last["mean"] is not None:
                note = f"mean {last['mean']:.2g}, std {last['std']:.2g}"
            else:
                note = "not finite"
            ax.set_title(f"{layer}\n{note}", fontsize=8)
            ax.tick_params(labelsize=7)
            ax.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(f"{describe(arm)}\nepoch")
    figure.supxlabel("value before the relu", fontsize=9)
    figure.suptitle(title)
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=100))


def describe(norm: str) -> str:
    """Returns the name of an arm in words."""
    return "without norm" if norm == "none" else f"{norm} norm"


def _draw_ridge(ax: Any, entry: dict[str, Any], level: int, colour: str) -> None:
    counts = np.asarray(entry["counts"], float)
    edges = np.linspace(entry["low"], entry["high"], len(counts) + 1)
    height = level + 0.9 * counts / max(counts.max(), 1)
    ax.stairs(
        height,
        edges,
        baseline=level,
        fill=True,
        color=colour,
        alpha=0.35,
        zorder=-level,
    )
    ax.stairs(height, edges, baseline=None, color=colour, linewidth=0.8, zorder=-level)
