"""Learning rates over five decades, with batch norm and without.

A network of 6 hidden layers of 64 is trained for a few epochs at each rate, from the
same weights and on the same batches with batch norm and without, by plain SGD and with
momentum 0.9.

Claims (a TensorFlow 1 regression tutorial, lecture notes and a tutorial on PyTorch's
layers; Bjorck et al. 2018).
1. Batch norm trains at the largest rate, 3, where the plain net diverges: the test
   error is below 40 % with batch norm and above 70 % without.
2. The best rate is larger with batch norm, in decades.
3. The optimum is wider with batch norm: more rates come within 5 points of the best.
4. At the best of these rates the test error is smaller with batch norm.
The best rate is chosen for each seed, and on the test images that the errors are of. A
net that diverged has an error of 100 %.

    python -m jaxbn.experiments learning_rate --workdir=W --data_dir=DIR

Measured numbers: docs/experiments/results.md. The bounds are those of pilot runs. The
verdicts are on plain SGD. Below 0.01 the plain net is ahead: with small rates batch
norm does not speed training.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from jaxbn import batch_norm
from jaxbn.experiments._draw import MARKERS, band, legend_below
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._images import load_images
from jaxbn.experiments._measure import errors, precise
from jaxbn.experiments._runs import classification, fit, last_epoch, sgd, start
from jaxbn.experiments._samplers import at_random
from jaxbn.experiments._verdicts import PILOT, Verdict, greater, jointly, less
from jaxbn.models import create_model

SOURCE = "regression tutorial; lecture notes; PyTorch tutorial; Bjorck et al. 2018"
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
NORMS = {"batch norm": batch_norm(momentum=0.9), "none": None}
TICKS = (0.5, 1, 2)
MOMENTA = {"SGD": 0.0, "momentum": 0.9}


class Size(NamedTuple):
    """How much is run; `hidden` are the widths."""

    train: int | None
    test: int | None
    epochs: int
    hidden: tuple[int, ...]


SIZES = {
    "smoke": Size(512, 300, 1, (32,) * 3),
    "small": Size(10_000, 5_000, 3, (64,) * 6),
    "full": Size(None, None, 10, (512,) * 6),
}


def measure(settings: Settings) -> dict[str, Any]:
    """Returns errors and losses by arm, [S, rates]; see the top of the file."""
    size = SIZES[settings.size]
    images = load_images(
        settings, "fashion_mnist", train=size.train, test=size.test, pool=2
    )
    seeds = settings.seed_numbers
    lanes = np.repeat(seeds, len(RATES))
    inputs, labels = images.train
    found = {}
    for optimizer, momentum in MOMENTA.items():
        for name, norm in NORMS.items():
            model = create_model("mlp", images.num_classes, norm, hidden=size.hidden)
            step = sgd(1.0, momentum=momentum)
            runs = start(model, inputs[:2], lanes, step)
            rows = at_random(lanes, len(labels), 128)
            rates = np.tile(RATES, len(seeds))
            epochs = range(size.epochs)
            runs, losses = fit(
                classification(model),
                runs,
                images.train,
                rows,
                epochs,
                optimizer=step,
                rates=rates,
            )
            stats = precise(model, runs.params, runs.batch_stats, inputs)
            error = errors(model, runs.params, stats, images.test)
            last = last_epoch(losses, len(labels), 128)
            shape = len(seeds), len(RATES)
            found[f"{name}, {optimizer}"] = {
                "error": error.reshape(shape),
                "loss": last.reshape(shape),
            }
    return found


def show(found: dict[str, Any]) -> Result:
    """Returns what the numbers show."""
    columns = ("test error % (100 if diverged) at rate", *map(str, RATES))
    rows = [(name, *numbers["error"].T) for name, numbers in found.items()]
    picture = functools.partial(draw, found)
    return Result(columns, rows, verdicts(found), picture, found, figsize=(9, 4.5))


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Returns whether the claims held, for plain SGD."""
    with_norm, without = (found[f"{name}, SGD"]["error"] for name in NORMS)
    best = [np.log10(RATES)[error.argmin(1)] for error in (with_norm, without)]
    wide = [
        (error < error.min(1, keepdims=True) + 5).sum(1)
        for error in (with_norm, without)
    ]
    return [
        jointly(
            "at learning rate 3 the test error is below 40 % with batch norm, above 70 "
            "% without (100 % if diverged)",
            [
                less("batch norm", with_norm[:, -1], by=-40, chosen=PILOT),
                greater("none", without[:, -1], by=70, chosen=PILOT),
            ],
        ),
        greater(
            "the best learning rate, chosen on the test images, is larger with batch "
            "norm (in decades)",
            *best,
        ),
        greater(
            "with batch norm more learning rates come within 5 points of the best test "
            "error",
            *wide,
        ),
        less(
            "at each seed's best learning rate, chosen on the test images, the test "
            "error is smaller with batch norm",
            with_norm.min(1),
            without.min(1),
        ),
    ]


def draw(found: dict[str, Any], figure: Any) -> None:
    """Draws test error and final training loss against the rate."""
    left, right = figure.subplots(1, 2)
    right.set_yscale("log")
    for i, (name, numbers) in enumerate(found.items()):
        style = {"color": f"C{i % 2}", "linestyle": "-" if i < 2 else "--"}
        style |= {"marker": MARKERS[i], "markersize": 4}
        band(left, RATES, numbers["error"], name, **style)
        band(right, RATES, numbers["loss"], name, **style)
    left.set(ylabel="test error, %")
    right.set(ylabel="final training loss, nats")
    right.set_yticks(TICKS, TICKS)
    right.minorticks_off()
    for axes in (left, right):
        axes.set(xscale="log", xlabel="learning rate")
        axes.tick_params(labelsize=9)
    legend_below(figure)
