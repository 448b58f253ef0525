"""Batch norm as a regularizer where data are few: its noise, and dropout and L2.

A network of three hidden layers is trained on few images. First with ghost batches of
several sizes in one batch of SGD, everything else the same: errors on training and test
images with mini-batch statistics of the same size and with population statistics (the
curves of figure 5 of the paper). Then with batch norm and without, each with dropout
(after every relu; with batch norm before the head only, see `dropout_order`), with L2
and with neither; strength and rate of each are those with the smallest error on
validation images, mean over seeds.

Claims.
1. The generalization gap, test error less training error both with mini-batch
   statistics, is smaller with ghost batches of 4 than of the whole batch, and of 32 in
   between (Wu and Johnson 2021, section 4.1: the noise of small batches regularizes).
2. So is the gap with population statistics.
3. Some noise helps: with ghost batches of 32 the test error with population statistics
   is smaller than with the whole batch (their figure 5).
4. Batch norm alone is as good at test as a plain net with dropout: its test error is at
   most half a point larger (a TensorFlow 1 regression tutorial and lecture notes).
5. It is as good as a plain net with L2, likewise.
6. Dropout and L2 can go: neither takes more than half a point off the error with batch
   norm.

    python -m jaxbn.experiments regularization --workdir=W --data_dir=DIR

Measured numbers: docs/experiments/results.md. The bounds were set before the first run,
without a pilot. 5 and 6 were not reproduced in that run: the means were on the claimed
side, but five seeds did not exclude half a point. Rates of 0.01, 0.03 and 0.1 were
tried first; 0.1 was the best of most arms, and with 0.3 instead of 0.01 it still was.
"""

import functools
from typing import Any

import numpy as np

from jaxbn.data import Split
from jaxbn.experiments._draw import band, bars
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._images import load_images
from jaxbn.experiments._verdicts import BEFORE, Verdict, jointly, less
from jaxbn.experiments.claims._regularization_training import (
    KINDS,
    NORMS,
    Size,
    train_arms,
    train_ghosts,
)

SOURCE = (
    "regression tutorial; lecture notes; Wu and Johnson 2021, section 4.1, figure 5"
)
STATISTICS = {"mini": "mini-batch", "population": "population"}
CURVES = {
    "train_mini": ("train, mini-batch", "C2", "o", "--"),
    "test_mini": ("test, mini-batch", "C0", "s", "-"),
    "train_population": ("train, population", "C1", "D", "--"),
    "test_population": ("test, population", "C3", "^", "-"),
}
RATES = "rates of 0.03 to 0.3, where 0.01 to 0.1 were tried first"
PAPER = {4: 26.4, 8: 24.3, 16: 23.5, 32: 23.4, 64: 23.2, 128: 23.4, 256: 23.6}
"""Test errors with population statistics of the source, by ghost batch (figure 5)."""
SIZES = {
    "smoke": Size(256, 256, 256, 4, (4, 32), 32, (0.05,), (16,) * 2),
    "small": Size(
        2_048,
        5_120,
        5_120,
        30,
        (4, 8, 16, 32, 64, 256),
        64,
        (0.03, 0.1, 0.3),
        (128,) * 3,
    ),
    "full": Size(
        2_048,
        10_240,
        None,
        100,
        (4, 8, 16, 32, 64, 128, 256),
        64,
        (0.01, 0.03, 0.1, 0.3, 1.0),
        (512,) * 3,
    ),
}


def measure(settings: Settings) -> dict[str, Any]:
    """Returns the errors of ghosts and arms; see the top of the file."""
    size = SIZES[settings.size]
    images = load_images(
        settings,
        "fashion_mnist",
        train=size.train + size.validation,
        test=size.test,
        pool=2,
    )
    few = Split(*(a[: size.train] for a in images.train))
    validation = Split(*(a[size.train :] for a in images.train))
    images = images._replace(train=few)
    seeds = np.array(settings.seed_numbers)
    return {
        "ghosts": train_ghosts(size, images, seeds),
        "arms": train_arms(size, images, validation, seeds),
    }


def show(found: dict[str, Any]) -> Result:
    """Returns what the numbers show."""
    picture = functools.partial(draw, found)
    return Result(*table_of(found), verdicts(found), picture, found, (9, 5))


def table_of(found: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Returns the columns and rows of the table, and what was chosen for each arm."""
    kinds = [f"{label} %" for label, *_ in CURVES.values()]
    rows: list[list[Any]] = [
        [f"ghost batches of {ghost}", *(numbers[key] for key in CURVES)]
        for ghost, numbers in found["ghosts"].items()
    ]
    for name, arm in found["arms"].items():
        chosen = f"dropout {arm['dropout']}, L2 {arm['l2']}, rate {arm['rate']}"
        rows.append([f"{name} ({chosen})", "", "", arm["train"], arm["test"]])
    return ["errors of", *kinds], rows


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Returns whether the claims held."""
    ghosts, arms = found["ghosts"], found["arms"]
    whole = list(ghosts)[-1]
    gaps = {
        kind: {
            ghost: np.subtract(numbers[f"test_{kind}"], numbers[f"train_{kind}"])
            for ghost, numbers in ghosts.items()
        }
        for kind in STATISTICS
    }
    source = "gap of 9.5 points with 2, 13.8 with 32, 16.3 with 1024"
    test = {name: arm["test"] for name, arm in arms.items()}
    alone = test["batch norm, neither"]
    return [
        *(
            jointly(
                "the gap between training and test error grows with the ghost batch, "
                f"with {STATISTICS[kind]} statistics",
                [
                    less("4 minus 32", gap["4"], gap["32"]),
                    less(f"32 minus {whole}", gap["32"], gap[whole]),
                ],
                source=source if kind == "mini" else "",
            )
            for kind, gap in gaps.items()
        ),
        less(
            "ghost batches of 32 give a smaller test error than normalizing the whole "
            "batch",
            ghosts["32"]["test_population"],
            ghosts[whole]["test_population"],
            source="23.4 and 23.7 %",
        ),
        *(
            less(
                "the test error with batch norm alone is at most half a point above a "
                f"plain net's with {kind}",
                alone,
                test[f"none, {kind}"],
                by=-0.5,
                chosen=BEFORE,
                changed=RATES,
            )
            for kind in ("dropout", "L2")
        ),
        jointly(
            "adding dropout or L2 to batch norm takes less than half a point off the "
            "test error",
            [
                less(
                    kind,
                    alone,
                    test[f"batch norm, {kind}"],
                    by=-0.5,
                    chosen=BEFORE,
                )
                for kind in ("dropout", "L2")
            ],
            changed=RATES,
        ),
    ]


def draw(found: dict[str, Any], figure: Any) -> None:
    """Draws the errors over the ghost size, and those of the arms as bars."""
    left, right = figure.subplots(1, 2)
    ghosts, arms = found["ghosts"], found["arms"]
    sizes = [int(size) for size in ghosts]
    for key, (label, color, marker, line) in CURVES.items():
        values = np.stack([numbers[key] for numbers in ghosts.values()], -1)
        style = {"color": color, "marker": marker, "markersize": 4, "linestyle": line}
        band(left, sizes, values, label, **style)
    shared = [size for size in sizes if size in PAPER]
    style = {"color": "C3", "marker": "^", "markerfacecolor": "none", "linestyle": ""}
    style["label"] = "Wu and Johnson, population"
    left.plot(shared, [PAPER[size] for size in shared], **style)
    left.set_xscale("log", base=2)
    left.set_xticks(sizes, [str(size) for size in sizes])
    left.set(xlabel="ghost batch, examples", ylabel="error, %")
    shown = {
        name: np.stack([arms[f"{name}, {kind}"]["test"] for kind in KINDS], -1)
        for name in NORMS
    }
    bars(right, list(KINDS), shown)
    right.set(xlabel="regularization besides", ylabel="test error, %")
    for axes in (left, right):
        axes.tick_params(labelsize=9)
        axes.legend(fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
