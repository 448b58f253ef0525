"""A parabola fitted by seven narrow layers: what each layer sees, and the cost.

The tutorial of seed 2 to the letter: 2,500 points of y = x^2 - 5 + N(0, 8) on [-7, 10],
7 hidden layers of 30 relu units with weights from N(0, 1) and biases 0.1, the inputs
and every pre-activation normalized (epsilon 0.001, running averages of momentum 0.5) or
nothing; one pass of plain SGD at 0.001 over batches of 10. The cost is over all points
with their own moments, as there. A third net is the fair opponent: no norm, but inputs
that are standardized and the same draws scaled as He's; a fourth is the same at a tenth
of the rate. Data are always the embedded set; each seed has its own order, noise and
weights.

Claims (seed 2; 1 to 3 are its pictures, 6 to 8 evaluate the averages it never reads).
1. Without batch norm the cost is not finite or above 1e6 at the end.
2. With it the cost ends below 200 and a quarter of the first (the noise alone is 64).
3. With it the deviation of every layer's input is within 0.4 to 1.4 at the end.
4. The plain net fails by its scale: the fair opponent ends below 200 as well.
5. At least it does at a tenth of the rate.
6. Normalizing by mini-batches of 10 in evaluation costs at least 1.8 times as much as
   by precise statistics that were measured in mini-batches of 10.
7. An average of momentum 0.5 is the worst of three stored estimates (0.9 and precise
   are the others) in at least 4 of 5 seeds.
8. Precise statistics are within 10 % of the moments of all points, in every seed.

    python -m jaxbn.experiments regression_layers --workdir=W

Measured on two x86-64 cores (jax 0.10.2, 21 November 2026), 2,500 points, 5 seeds,
14 s; cost on all points, mean and standard deviation over seeds:

    net                       at the start    after 250 steps
    batch norm                1118 +- 106     110 +- 35
    none                      1e10 +- 1e10    not finite from the first 5 steps on
    none, well scaled         1185 +- 159     3 not finite, 2 above 900
    the same at 0.0001        1185 +- 159     115 +- 22

    batch norm evaluated by   all points  precise     average 0.5  0.9        batches
    cost                      110 +- 35   108 +- 35   124 +- 53    82 +- 5    257 +- 21

1 to 3 held (5 of 5 seeds; deviations 0.61 to 1.04); 4 was not reproduced (0 of 5: what
batch norm allows here is the rate), 5 held (5 of 5). 6 held by a little (ratio 2.5 +-
0.65, the interval) and did not in a run before the averages were kept side by side,
where rounding differed (2.4 +- 0.70): the cost of one seed in five is far from the
others. 7 was not reproduced (3 of 5 seeds); 8 held (at most 7.5 %). Claim 5, and
standardized inputs for the fair opponent, were added after that first run, in which it
diverged with raw inputs too; criteria were not changed.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from jaxbn import batch_norm
from jaxbn.data import Split, load
from jaxbn.experiments._draw import band
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._verdicts import Verdict, always, greater
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

SOURCE = "seed 2; Wu and Johnson 2021, section 3"
NETS = ("batch norm", "none", "none, well scaled", "the same at 0.0001")
RATES = (1.0, 1.0, 0.1)
"""Factors of the rate, of all but the first."""
COLORS = dict(zip(NETS, ("C0", "C1", "C2", "C3"), strict=True))


class Size(NamedTuple):
    """How much is run."""

    points: int
    passes: int


SIZES = {"smoke": Size(500, 1), "small": Size(2500, 1), "full": Size(2500, 20)}


def run(settings: Settings) -> Result:
    """Runs the experiment; see the top of the file."""
    size, seeds = SIZES[settings.size], range(settings.seeds)
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
    evaluations = evaluate(model, runs, data)
    found["evaluation"] = evaluations
    found["histograms"] = {"none": binned(began), "batch norm": binned(seen.values)}
    columns = ("net", "first cost", "final cost", *evaluations)
    blank = [""] * len(evaluations)
    rows = [
        (
            name,
            found[name]["cost"][:, 0],
            found[name]["cost"][:, -1],
            *(evaluations.values() if name == "batch norm" else blank),
        )
        for name in NETS
    ]
    picture = functools.partial(draw, found)
    return Result(columns, rows, verdicts(found), picture, found, figsize=(10, 8))


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Returns whether the claims held."""
    normed, plain, scaled, slow = (found[name]["cost"] for name in NETS)
    std, costs = found["batch norm"]["std"][:, -1], found["evaluation"]
    stored = [costs["average 0.5"], costs["average 0.9"], costs["precise, by 10"]]
    worst = np.argmax(stored, 0) == 0
    apart = np.abs(costs["precise, by 10"] / costs["all points"] - 1)
    return [
        always("without a norm the cost ends above 1e6", ~(plain[:, -1] <= 1e6)),
        always(
            "with batch norm it ends below 200 and a quarter of the first",
            (normed[:, -1] < 200) & (normed[:, -1] < normed[:, 0] / 4),
            f"from {normed[:, 0].mean():.0f} to {normed[:, -1].mean():.0f}",
        ),
        always(
            "with batch norm every layer's input deviates by 0.4 to 1.4 at the end",
            ((std > 0.4) & (std < 1.4)).all(1),
            f"{std.min():.2f} to {std.max():.2f}",
        ),
        always(
            "without a norm, but well scaled, it ends below 200",
            scaled[:, -1] < 200,
            f"{(~np.isfinite(scaled[:, -1])).sum()} diverged",
        ),
        always(
            "at a tenth of the rate it does",
            slow[:, -1] < 200,
            f"from {slow[:, 0].mean():.0f} to {slow[:, -1].mean():.0f}",
        ),
        greater(
            "mini-batches of 10 cost at least 1.8 times as much as precise statistics",
            costs["batches of 10"] / costs["precise, by 10"],
            1.8,
        ),
        Verdict(
            "an average of momentum 0.5 is the worst of three stored estimates in 4 of "
            "5 seeds",
            bool(worst.mean() >= 0.8),
            f"{worst.sum()} of {worst.size} seeds",
        ),
        always(
            "precise statistics are within 10 % of the moments of all points",
            apart < 0.1,
            f"at most {100 * apart.max():.1f} %",
        ),
    ]


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
    left, right = below.subplots(1, 2)
    draw_cost(left, found)
    right.set_yscale("log")
    for name in NETS[:-1]:
        std = found[name]["std"]
        for place, when in ((0, "start"), (-1, "end")):
            if np.isfinite(std[:, place]).all():
                layers = np.arange(1, std.shape[2] + 1)
                how = {"color": COLORS[name], "linestyle": "-" if place else "--"}
                band(right, layers, std[:, place], f"{name}, {when}", **how)
    right.set(xlabel="layer", ylabel="standard deviation of its input")
    right.legend(fontsize=8)


def draw_histogram(axes: Any, histogram: Histogram, color: str) -> None:
    """Draws what is not 0, between its extremes."""
    axes.stairs(histogram.shares, histogram.edges, fill=True, color=color)
    ends = histogram.edges[0], histogram.edges[-1]
    axes.set_xticks(ends, [f"{float(f'{end:.2g}'):g}" for end in ends], fontsize=7)
    axes.set_yticks([])
    if histogram.zero > 0.01:
        where = {"transform": axes.transAxes, "ha": "right", "va": "top", "fontsize": 7}
        axes.text(0.95, 0.95, f"{histogram.zero:.0%}\nare 0", **where)


def draw_cost(axes: Any, found: dict[str, Any]) -> None:
    """Draws each seed's cost, and a cross where it was lost."""
    axes.set_yscale("log")
    for name in NETS:
        values = found[name]["cost"]
        within = values <= 1e12
        ends = np.where(within.all(1), values.shape[1], within.argmin(1))
        lost = int((ends < values.shape[1]).sum())
        label = f"{name}, {lost} of {len(values)} diverged" if lost else name
        for each, end in zip(values, ends, strict=True):
            axes.plot(np.arange(end) * EVERY, each[:end], color=COLORS[name], alpha=0.7)
            if 0 < end < len(each):
                place = (end - 1) * EVERY, each[end - 1]
                axes.plot(*place, "X", color=COLORS[name], markersize=9)
        axes.plot([], [], color=COLORS[name], label=label)
    axes.legend(fontsize=8)
    axes.set(xlabel="step", ylabel="cost on all points")
