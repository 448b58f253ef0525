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
4. Batch norm alone is at least as good at test as a plain net with dropout, and
5. as one with L2: at most half a point more (tutorials of seeds 2 and 4).
6. Dropout and L2 can go: neither takes more than half a point off the error with batch
   norm.

    python -m jaxbn.experiments regularization --workdir=W --data_dir=DIR
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from jaxbn import batch_norm, ghost_norm
from jaxbn.data import Split
from jaxbn.experiments._draw import band, bars
from jaxbn.experiments._dropout import (
    DropoutMLP,
    regularized,
    with_strengths,
    without_strengths,
)
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._images import Images, load_images
from jaxbn.experiments._measure import errors, precise, shuffled_split
from jaxbn.experiments._runs import classification, fit, sgd, start
from jaxbn.experiments._samplers import at_random
from jaxbn.experiments._verdicts import Verdict, jointly, less
from jaxbn.models import create_model

SOURCE = "seeds 2 and 4; Wu and Johnson 2021, section 4.1, figure 5"
GHOST_RATE = 0.1
KINDS = {
    "neither": ((0, 0),),
    "dropout": ((0.2, 0), (0.5, 0)),
    "L2": ((0, 1e-3), (0, 1e-2)),
}
"""The strengths of dropout and L2 that are tried."""
STATISTICS = {"mini": "mini-batch", "population": "population"}
CURVES = {
    "train_mini": ("train, mini-batch", {"color": "C2", "linestyle": "--"}),
    "test_mini": ("test, mini-batch", {"color": "C0"}),
    "train_population": ("train, population", {"color": "C1", "linestyle": "--"}),
    "test_population": ("test, population", {"color": "C3"}),
}
NORMS = {"batch norm": batch_norm(momentum=0.9), "none": None}


class Size(NamedTuple):
    """How much is run; `ghosts` are the sizes of ghost batches, the last of all."""

    train: int
    validation: int
    test: int | None
    epochs: int
    ghosts: tuple[int, ...]
    batch: int
    rates: tuple[float, ...]
    hidden: tuple[int, ...]


SIZES = {
    "smoke": Size(256, 256, 256, 4, (4, 32), 32, (0.05,), (16,) * 2),
    "small": Size(
        2_048,
        5_120,
        5_120,
        30,
        (4, 8, 16, 32, 64, 256),
        64,
        (0.01, 0.03, 0.1),
        (128,) * 3,
    ),
    "full": Size(
        2_048,
        10_240,
        None,
        100,
        (4, 8, 16, 32, 64, 128, 256),
        64,
        (0.003, 0.01, 0.03, 0.1, 0.3),
        (512,) * 3,
    ),
}


def run(settings: Settings) -> Result:
    """Runs the experiment; see the top of the file."""
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
    seeds = np.arange(settings.seeds)
    found: dict[str, Any] = {
        "ghosts": train_ghosts(size, images, seeds),
        "arms": train_arms(size, images, validation, seeds),
    }
    kinds = [
        f"{data} %, {kind}"
        for kind in STATISTICS.values()
        for data in ("train", "test")
    ]
    table = [
        (f"ghost batches of {ghost}", *numbers.values())
        for ghost, numbers in found["ghosts"].items()
    ]
    for name, arm in found["arms"].items():
        chosen = f"dropout {arm['dropout']}, L2 {arm['l2']}, rate {arm['rate']}"
        table.append((f"{name} ({chosen})", "", "", arm["train"], arm["test"]))
    picture = functools.partial(draw, found)
    return Result(("error", *kinds), table, verdicts(found), picture, found)


def train_ghosts(
    size: Size, images: Images, seeds: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the errors [S] by the size of the ghost batches."""
    inputs, labels = images.train
    batch, hidden = size.ghosts[-1], size.hidden
    plain = create_model("mlp", images.num_classes, batch_norm(), hidden=hidden)
    rows = at_random(seeds, len(labels), batch)
    step = sgd(GHOST_RATE, len(labels) // batch * size.epochs)
    first = start(plain, inputs[:2], seeds, step)
    orders = shuffled_split(images.train), shuffled_split(images.test)
    found = {}
    for ghost in size.ghosts:
        norm = ghost_norm(size=ghost, momentum=0.9)
        model = create_model("mlp", images.num_classes, norm, hidden=hidden)
        runs, _ = fit(
            classification(model),
            first,
            images.train,
            rows,
            range(size.epochs),
            optimizer=step,
        )
        found_of = functools.partial(errors, params=runs.params)
        mini = {"stats": runs.batch_stats, "train": True, "batch": batch}
        stats = precise(plain, runs.params, runs.batch_stats, inputs)
        found[str(ghost)] = {
            "train_mini": found_of(model, split=orders[0], **mini),
            "test_mini": found_of(model, split=orders[1], **mini),
            "train_population": found_of(plain, stats=stats, split=images.train),
            "test_population": found_of(plain, stats=stats, split=images.test),
        }
    return found


def train_arms(
    size: Size, images: Images, validation: Split, seeds: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Returns the errors [S] of each arm where its validation error is smallest."""
    inputs, labels = images.train
    tried = [
        (kind, dropout, l2, rate)
        for kind, strengths in KINDS.items()
        for dropout, l2 in strengths
        for rate in size.rates
    ]
    dropout, l2, rates = (
        np.repeat([each[i] for each in tried], len(seeds)) for i in (1, 2, 3)
    )
    lanes = np.tile(seeds, len(tried))
    rows = at_random(lanes, len(labels), size.batch)
    step = sgd(1.0, len(labels) // size.batch * size.epochs)
    found = {}
    for name, norm in NORMS.items():
        model = DropoutMLP(images.num_classes, norm, size.hidden)
        places = np.full(len(size.hidden), float(norm is None))
        places[-1] = 1.0
        runs = start(model, inputs[:2], lanes, step)
        runs, _ = fit(
            regularized(model),
            with_strengths(runs, dropout[:, None] * places[None], l2),
            images.train,
            rows,
            range(size.epochs),
            optimizer=step,
            rates=rates,
        )
        stats = without_strengths(runs)
        parts = {"train": images.train, "validation": validation, "test": images.test}
        measured = {
            part: errors(model, runs.params, stats, split).reshape(-1, len(seeds))
            for part, split in parts.items()
        }
        for kind in KINDS:
            own = [i for i, each in enumerate(tried) if each[0] == kind]
            best = min(own, key=lambda i: measured["validation"][i].mean())
            settings = dict(
                zip(("dropout", "l2", "rate"), tried[best][1:], strict=True)
            )
            numbers = {part: values[best] for part, values in measured.items()}
            found[f"{name}, {kind}"] = {**settings, **numbers}
    return found


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
                f"with {STATISTICS[kind]} statistics the gap between training and test "
                "grows with the ghost batch",
                [
                    less("4 below 32", gap["4"], gap["32"]),
                    less(f"32 below {whole}", gap["32"], gap[whole]),
                ],
                source=source if kind == "mini" else "",
            )
            for kind, gap in gaps.items()
        ),
        less(
            "ghost batches of 32 have a smaller test error than the whole batch",
            ghosts["32"]["test_population"],
            ghosts[whole]["test_population"],
            source="23.4 and 23.7 %",
        ),
        *(
            less(
                f"batch norm alone is at most half a point worse than a plain net with "
                f"{kind}",
                alone,
                test[f"none, {kind}"],
                by=-0.5,
            )
            for kind in ("dropout", "L2")
        ),
        jointly(
            "neither takes half a point off the error with batch norm",
            [
                less(kind, alone, test[f"batch norm, {kind}"], by=-0.5)
                for kind in ("dropout", "L2")
            ],
        ),
    ]


def draw(found: dict[str, Any], figure: Any) -> None:
    """Draws the errors over the ghost size, and those of the arms as bars."""
    left, right = figure.subplots(1, 2)
    ghosts, arms = found["ghosts"], found["arms"]
    sizes = [int(size) for size in ghosts]
    for key, (label, style) in CURVES.items():
        values = np.stack([numbers[key] for numbers in ghosts.values()], -1)
        band(left, sizes, values, label, marker="o", markersize=3, **style)
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
        axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
