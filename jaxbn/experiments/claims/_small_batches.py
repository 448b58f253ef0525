"""What the remedies for small normalization batches share: arms, table, picture.

    arm = arm_of(task, {size: batch_renorm(...) for size in sizes})
    arm["running"], arm["precise"]           test errors in percent, [S, sizes] each

Each remedy is trained for every normalization batch size (NBS) and evaluated with the
running statistics that training left and with precise ones; a figure has the error
over the NBS, a panel for each way to evaluate.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxbn import batch_norm
from jaxbn.base import Norm
from jaxbn.experiments._draw import MARKERS, band, legend_below
from jaxbn.experiments._runs import Runs
from jaxbn.experiments.claims._sweep import (
    Task,
    plain_stats,
    population_errors,
    train,
)

Arm = dict[str, np.ndarray]
"""Errors in percent, [S, sizes] each, by what they were measured with."""
PANELS = {"running": "running statistics", "precise": "precise statistics"}
MOMENTUM = 0.9
"""Of running statistics: short trainings take few steps."""


def plain_norms(sizes: Sequence[int], **options: Any) -> dict[int, Norm]:
    """Returns batch norm of each normalization batch size."""
    return {
        size: batch_norm(normalization_batch_size=size, momentum=MOMENTUM, **options)
        for size in sizes
    }


def arm_of(task: Task, norms: Mapping[int, Norm], **how: Any) -> Arm:
    """Returns the test errors of a remedy, trained for each size.

    Args:
        task: to learn.
        norms: by normalization batch size.
        **how: as for `train`.
    """
    trained = [train(task, norm, **how) for norm in norms.values()]
    return stack([evaluate(task, runs) for runs in trained])


def stack(each: Sequence[Arm]) -> Arm:
    """Returns the errors of several runs, [S] each, as those of an arm."""
    return {name: np.stack([one[name] for one in each], 1) for name in each[0]}


def evaluate(task: Task, runs: Runs) -> Arm:
    """Returns the test errors of runs of any batch norm, [S] each."""
    running = plain_stats(runs.batch_stats)
    return {
        "running": population_errors(task, runs, stats=running),
        "precise": population_errors(task, runs),
    }


def rows_of(arms: Mapping[str, Arm]) -> list[tuple[Any, ...]]:
    """Returns a row of the table for each arm and way to evaluate.

    One row is enough of an arm that has no statistics.
    """
    rows = []
    for name, arm in arms.items():
        if np.array_equal(arm["running"], arm["precise"]):
            rows.append((name, *arm["precise"].T))
        else:
            rows += [(f"{name}, {PANELS[key]}", *arm[key].T) for key in PANELS]
    return rows


def draw_arms(
    arms: Mapping[str, Arm],
    sizes: Sequence[int],
    figure: Any,
    *,
    xlabel: str = "normalized together, examples",
    panels: Mapping[str, str] = PANELS,
) -> None:
    """Draws the test errors against the NBS, a panel for each way to evaluate."""
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, (key, title) in zip(axes, panels.items(), strict=True):
        panel.set(xlabel=xlabel, yscale="log", ylabel="test error, %")
        panel.set_title(title, fontsize=10)
        panel.set_xscale("log", base=2)
        panel.set_xticks(sizes, [str(size) for size in sizes])
        for i, (name, arm) in enumerate(arms.items()):
            style = {"color": f"C{i}", "marker": MARKERS[i], "markersize": 4}
            band(panel, sizes, arm[key], name, **style)
        label_errors(panel)
    legend_below(figure, axes[0])


def label_errors(axes: Any) -> None:
    """Labels a logarithmic axis of errors in plain percent."""
    low, high = axes.get_ylim()
    marks = (10, 11, 12, 13, 14, 15, 16, 18, 20, 25, 30, 40, 50, 60, 80)
    marks = [mark for mark in marks if low <= mark <= high]
    marks = marks if high < 2 * low else [m for m in marks if m not in (11, 13, 14, 16)]
    axes.set_yticks(marks, [str(mark) for mark in marks])
    axes.yaxis.set_minor_formatter("")
