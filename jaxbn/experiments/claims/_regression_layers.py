"""A parabola fitted by seven narrow layers: what each layer sees, and the cost.

A TensorFlow 1 regression tutorial to the letter: 2,500 points of y = x^2 - 5 + N(0, 8)
on [-7, 10], 7 hidden layers of 30 relu units with weights from N(0, 1) and biases 0.1,
the inputs and every pre-activation normalized (epsilon 0.001, running averages of
momentum 0.5) or nothing; one pass of plain SGD at 0.001 over batches of 10. The cost is
over all points with their own moments, as there. A third net is the fair opponent: no
norm, but inputs that are standardized and the same draws scaled as He's; a fourth is
the same at a tenth of the rate. Data are always the embedded set; each seed has its own
order, noise and weights.

Claims (the tutorial's; 1 to 3 are its pictures, 6 to 8 evaluate with the running
averages that it keeps and never reads).
1. Without batch norm the cost ends above 1e6, or is not finite.
2. With batch norm the cost ends below 200, and below a quarter of its first value (the
   noise alone makes it 64).
3. With batch norm the standard deviation of every layer's input ends between 0.4 and
   1.4.
4. The plain net fails because of its scale: the fair opponent ends below 200 as well.
5. The fair opponent at a tenth of the rate ends below 200.
6. Evaluated with the statistics of mini-batches of 10, the cost is at least 1.8 times
   that with precise statistics, which were measured in mini-batches of 10.
7. Of three stored estimates a running average of momentum 0.5 is the worst: its cost is
   larger than that of momentum 0.9 and that of precise statistics.
8. The cost with precise statistics is within 10 % of that with the moments of all
   points.
A cost that is not finite counts as 1e12, as larger ones do; except in 6 and 8 it is the
decimal logarithm of a cost, or of a ratio of two, that is judged.

    python -m jaxbn.experiments regression_layers --workdir=W

Measured numbers: docs/experiments/results.md. Claim 5, and standardized inputs for the
fair opponent, were added after a first run, in which it diverged with raw inputs too;
other criteria were not changed then. The bounds of 1 to 3, 6 and 8 come from pilot
runs; those of 4 and 5 are that of 2. On the seeds 0 to 4 claims 4 and 7 were not
reproduced: what batch norm allows here is the rate. 6 was decided by little, and by
rounding: before the averages were kept side by side it was not reproduced.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from jaxbn import batch_norm
from jaxbn.data import Split, load
from jaxbn.experiments._draw import MARKERS, band
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._verdicts import PILOT, Verdict, greater, jointly, less
from jaxbn.experiments.claims._regression_training import (
    EVERY,
    Histogram,
    as_he,
    begin,
    binned,
    evaluate,
    standardized,
    train,
)
from jaxbn.models import NarrowNet

SOURCE = "regression tutorial; Wu and Johnson 2021, section 3"
NETS = ("batch norm", "none", "none, well scaled", "the same at 0.0001")
RATES = (1.0, 1.0, 0.1)
"""Factors of the rate, of all but the first."""
LABELS = dict(zip(NETS, (*NETS[:-1], "none, well scaled, rate 0.0001"), strict=True))
"""Of the nets, in the table and in the picture."""
COLORS = dict(zip(NETS, ("C0", "C1", "C2", "C3"), strict=True))
LINES = dict(zip(NETS, ("-", ":", "--", "-."), strict=True))
MOST = 1e12
"""What a larger cost counts as, and one that is not finite."""
EVALUATED = {
    "average 0.5": "running average 0.5",
    "average 0.9": "running average 0.9",
    "precise, by 10": "precise statistics",
    "all points": "moments of all points",
    "batches of 10": "mini-batches of 10",
}
"""The statistics that the net with batch norm is evaluated with, in words."""


class Size(NamedTuple):
    """How much is run."""

    points: int
    passes: int


SIZES = {"smoke": Size(500, 1), "small": Size(2500, 1), "full": Size(2500, 20)}


def measure(settings: Settings) -> dict[str, Any]:
    """Returns costs and deviations by net; see the top of the file."""
    size, seeds = SIZES[settings.size], settings.seed_numbers
    sets = [load("regression", seed=s, train_limit=size.points).train for s in seeds]
    fields = zip(*sets, strict=True)
    data = Split(*(np.stack([np.asarray(a) for a in field]) for field in fields))
    plain = begin(NarrowNet(1, None), data, np.tile(seeds, len(RATES)))
    plain = plain._replace(params=as_he(plain.params, len(seeds)))
    fair = data._replace(inputs=standardized(np.asarray(data.inputs)))
    each = zip(data, fair, fair, strict=True)
    every = Split(*(np.concatenate(fields) for fields in each))
    rates = np.repeat(RATES, len(seeds))
    _, seen, began = train(NarrowNet(1, None), plain, every, size.passes, rates)
    parts = np.split(np.arange(len(rates)), len(RATES))
    found: dict[str, Any] = {
        name: {"cost": seen.cost[part], "std": seen.std[part][:, [0, -1]]}
        for name, part in zip(NETS[1:], parts, strict=True)
    }
    model = NarrowNet(1, batch_norm(epsilon=1e-3))
    runs, seen, _ = train(
        model, begin(model, data, np.asarray(seeds)), data, size.passes
    )
    found["batch norm"] = {"cost": seen.cost, "std": seen.std[:, [0, -1]]}
    found["evaluation"] = evaluate(model, runs, data)
    found["histograms"] = {"none": binned(began), "batch norm": binned(seen.values)}
    return found


def show(found: dict[str, Any]) -> Result:
    """Returns what the numbers show."""
    own = [found["evaluation"][name] for name in EVALUATED]
    columns = ("net", "first cost", "final cost")
    columns += tuple(f"cost with {name}" for name in EVALUATED.values())
    blank = [""] * len(own)
    rows = [
        (
            LABELS[name],
            found[name]["cost"][:, 0],
            found[name]["cost"][:, -1],
            *(own if name == "batch norm" else blank),
        )
        for name in NETS
    ]
    picture = functools.partial(draw, found)
    return Result(columns, rows, verdicts(found), picture, found, figsize=(10, 8.5))


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Returns whether the claims held."""
    costs = {name: in_decades(found[name]["cost"]) for name in NETS}
    normed, plain, scaled, slow = costs.values()
    std = found["batch norm"]["std"][:, -1]
    by = {name: capped(cost) for name, cost in found["evaluation"].items()}
    precise = by["precise, by 10"]
    stored = {name: in_decades(cost) for name, cost in by.items()}
    limit = math.log10(200)
    return [
        greater(
            "without a norm the cost ends above 1e6 or is not finite (log10 of the "
            "cost)",
            plain[:, -1],
            by=6,
            chosen=PILOT,
        ),
        jointly(
            "with batch norm the cost ends below 200, and below a quarter of its start",
            [
                less("log10 of the cost", normed[:, -1], by=-limit, chosen=PILOT),
                less(
                    "log10 of final over first cost",
                    normed[:, -1],
                    normed[:, 0],
                    by=math.log10(4),
                    chosen=PILOT,
                ),
            ],
        ),
        jointly(
            "with batch norm the standard deviation of every layer's input ends "
            "between 0.4 and 1.4",
            [
                greater("the smallest", std.min(1), by=0.4, chosen=PILOT),
                less("the largest", std.max(1), by=-1.4, chosen=PILOT),
            ],
        ),
        less(
            "without a norm, but well scaled, the cost ends below 200 (log10 of the "
            "cost)",
            scaled[:, -1],
            by=-limit,
            chosen="ours, that of the net with batch norm",
            changed="standardized inputs, after a first run with raw ones",
        ),
        less(
            "without a norm, but well scaled, at a tenth of the rate the cost ends "
            "below 200 (log10)",
            slow[:, -1],
            by=-limit,
            chosen="ours, that of the net with batch norm",
            changed="a claim that was added after a first run, on the seeds 0 to 4",
        ),
        greater(
            "evaluated with mini-batches of 10, the cost is over 1.8 times that with "
            "precise statistics",
            by["batches of 10"] / precise,
            by=1.8,
            chosen=PILOT,
        ),
        greater(
            "running averages of momentum 0.5 give a larger cost than 0.9 and precise "
            "statistics (log10 of ratio)",
            stored["average 0.5"],
            np.maximum(stored["average 0.9"], stored["precise, by 10"]),
            changed="how much worse, where it was to be the worst in 4 of 5 seeds",
        ),
        less(
            "the cost with precise statistics is within 10 % of that with the moments "
            "of all points",
            abs(precise / by["all points"] - 1),
            by=-0.1,
            chosen=PILOT,
        ),
    ]


def capped(cost: np.ndarray) -> np.ndarray:
    """Returns costs of at most `MOST`, for which those that are not finite count."""
    return np.where(cost <= MOST, cost, MOST)


def in_decades(cost: np.ndarray) -> np.ndarray:
    """Returns decimal logarithms of costs, of at most 12.

    Example:
        >>> in_decades(np.array([100.0, 1e20, np.nan]))
        array([ 2., 12., 12.])
    """
    return np.log10(capped(cost))


def draw(found: dict[str, Any], figure: Any) -> None:
    """Draws what the layers are given, the cost, and how deviations grow with depth."""
    above, below = figure.subfigures(2, 1)
    rows = above.subplots(2, 8)
    named = {"none": "none,\nat the start", "batch norm": "batch norm,\nat the end"}
    for axes, (name, label) in zip(rows, named.items(), strict=True):
        axes[0].set_ylabel(label, fontsize=9)
        for i, histogram in enumerate(found["histograms"][name]):
            draw_histogram(axes[i], Histogram(*histogram), COLORS[name])
            axes[i].set_title(f"layer {i + 1}" if name == "none" else "", fontsize=10)
    above.supxlabel("input of the layer, of one seed; shares of the values", fontsize=9)
    left, right = below.subplots(1, 2)
    draw_cost(left, found)
    right.set_yscale("log")
    for name, marker in zip(NETS[:-1], MARKERS, strict=False):
        std = found[name]["std"]
        for place, when in ((0, "start"), (-1, "end")):
            if np.isfinite(std[:, place]).all():
                layers = np.arange(1, std.shape[2] + 1)
                how = {"color": COLORS[name], "linestyle": "-" if place else "--"}
                how |= {"marker": marker, "markersize": 4}
                band(right, layers, std[:, place], f"{name}, {when}", **how)
    right.set(xlabel="layer", ylabel="standard deviation of its input")
    for axes in (left, right):
        axes.tick_params(labelsize=9)
        axes.legend(fontsize=9)


def draw_histogram(axes: Any, histogram: Histogram, color: str) -> None:
    """Draws what is not 0, between its extremes."""
    axes.stairs(histogram.shares, histogram.edges, fill=True, color=color)
    ends = histogram.edges[0], histogram.edges[-1]
    axes.set_xticks(ends, [short(end) for end in ends], fontsize=9)
    for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
        label.set_horizontalalignment(side)
    axes.set_yticks([])
    if histogram.zero > 0.01:
        where = {"transform": axes.transAxes, "ha": "right", "va": "top", "fontsize": 9}
        axes.text(0.95, 0.95, f"{histogram.zero:.0%}\nare 0", **where)


def short(value: float) -> str:
    """Returns a number in few characters.

    Example:
        >>> short(-2.345), short(12345.0)
        ('-2.3', '1e4')
    """
    if abs(value) < 1000:
        return f"{float(f'{value:.2g}'):g}"
    digit, power = f"{value:.0e}".split("e")
    return f"{digit}e{int(power)}"


def draw_cost(axes: Any, found: dict[str, Any]) -> None:
    """Draws each seed's cost, and a cross where it was lost."""
    axes.set_yscale("log")
    for name in NETS:
        values = found[name]["cost"]
        within = values <= MOST
        ends = np.where(within.all(1), values.shape[1], within.argmin(1))
        lost = int((ends < values.shape[1]).sum())
        label = LABELS[name]
        if lost:
            label = f"{label}, {lost} of {len(values)} diverged"
        how = {"color": COLORS[name], "linestyle": LINES[name]}
        for each, end in zip(values, ends, strict=True):
            axes.plot(np.arange(end) * EVERY, each[:end], alpha=0.7, **how)
            if 0 < end < len(each):
                place = (end - 1) * EVERY, each[end - 1]
                axes.plot(*place, "X", color=COLORS[name], markersize=9)
        axes.plot([], [], label=label, **how)
    axes.set(xlabel="step", ylabel="cost on all points")
