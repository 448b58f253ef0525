"""Running averages against precise statistics: lag, samples, passes, estimator.

Networks of three hidden layers are trained once with batches of 128 and of 2,048, the
rate divided by 10 after each third. After every epoch the same weights are tested with
running averages of momentum 0.9 and 0.99, with and without their initial values, and
with precise statistics of 10,000 images; and it is counted how many channels' averages
(means) lie outside those of 30 batches. Two models are measured with 10 to 10,000
images, 8 draws each: the fully trained one of batches of 128, and that of 2,048 after
one epoch. Models trained with ghost batches of 32 and of 4 in SGD batches of 256 are
measured with 5,000 images in passes of 2 to 5,000, and with means of unbiased variances
instead of the total one.

Claims (Wu and Johnson 2021, section 3).
1. Averages lag: with batches of 2,048 and momentum 0.9 more lie outside in the first
   third of the epochs than in the last (figure 2).
2. After the first epoch, momentum 0.9, the error exceeds that of precise statistics by
   3 points or more with batches of 2,048, and by 2 points more than with 128 (figures 3
   and 4).
3. At the end, momentum 0.9, they differ by 0.3 points at most, with both.
4. The initial value is not all of it: with batches of 2,048 the debiased average is a
   point or more worse after the first epoch, and worse in 80 % of the epochs of the
   first rate, in every seed.
5. Momentum 0.99 lags longer: with batches of 2,048 it ends 2 points or more above.
6. 1,000 images are enough: 10 cost 5 points or more over 1,000, 10,000 change 0.3
   points at most, the deviation over draws falls with every step (table 1);
7. far from convergence too: 10,000 change 0.3 points at most.
8. Passes of 2 accumulate errors: 0.4 points or more over a single pass; those of 100
   are within 0.15 points of it (table 2).
9. At passes of 2 the mean of variances is worse than the total variance (appendix);
10. so it is at passes of 100 images of one class each.

    python -m jaxbn.experiments precise_statistics --workdir=W --data_dir=DIR

Measured on two x86-64 cores (jax 0.10.2, 21 November 2026), 20,000 training and 5,000
test images of Fashion-MNIST in 14 x 14 pixels, 9 epochs (15 of 10,000 images for the
ghost batches), 5 seeds, 74 s beside other work; mean and standard deviation over seeds,
test error in percent after the first and the last epoch:

                 batches of 128               batches of 2,048
    EMA 0.9        17.5 +- 0.8  12.8 +- 0.2     31.9 +- 4.9  15.4 +- 0.6
    debiased 0.9   17.5 +- 0.8  12.8 +- 0.2     30.1 +- 4.5  15.4 +- 0.6
    EMA 0.99       18.9 +- 1.6  12.7 +- 0.2     39.8 +- 4.8  19.7 +- 1.9
    debiased 0.99  18.3 +- 0.9  12.7 +- 0.2     30.8 +- 4.3  15.4 +- 0.5
    precise        17.2 +- 0.7  12.8 +- 0.2     25.9 +- 3.3  15.4 +- 0.5

    images          10           100          1,000        10,000
    trained         20.6 +- 0.3  13.5 +- 0.2  12.8 +- 0.2  12.8 +- 0.2
    one epoch       34.5 +- 2.2  26.4 +- 3.6  25.8 +- 3.3  25.8 +- 3.3

    images a pass   2            10           100          5,000
    ghosts of 32    14.3 +- 0.2  13.5 +- 0.1  13.4 +- 0.1  13.3 +- 0.1
    ghosts of 4     18.1 +- 0.4  17.0 +- 0.3  17.0 +- 0.2  17.0 +- 0.2

All held but 4 and 5. 4 was not reproduced: in one seed of five the debiased average is
worse in two of the three epochs of the first rate (it had held when the share was taken
over all seeds, 93 %). 5 was not reproduced: in four seeds of five momentum 0.99 ends
3.68 to 6.44 points above, in the fifth 1.98; and that is what 81 steps leave of the
initial values, for debiased it is 0.1 above. In 1 the share falls from 90 to 4 %; in 9
the mean of variances costs 0.7 +- 0.3 points (the interval), in 10, which no pilot had
set, 0.19 +- 0.17.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import optax

from jaxbn import batch_norm
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._images import Images, load_images
from jaxbn.experiments._runs import Runs, fit, start
from jaxbn.experiments._samplers import at_random
from jaxbn.experiments._verdicts import Verdict, always, greater
from jaxbn.experiments.claims._precise_measures import (
    MOMENTA,
    averaging,
    errors_by_samples,
    errors_of_all,
    on_samples,
    said,
    share_outside,
    with_averages,
)
from jaxbn.experiments.claims._precise_passes import DECAY, measure_passes, on_passes
from jaxbn.experiments.claims._precise_views import draw, table_of
from jaxbn.models import create_model

SOURCE = "Wu and Johnson 2021, section 3, figures 2 to 4, tables 1 and 2"
GHOSTS = (32, 4)
OUTSIDE = 30
"""Batches whose means an average is held against."""


class Size(NamedTuple):
    """How much is run; `batches` are the small and the large one, with their rates."""

    train: int | None
    test: int | None
    hidden: tuple[int, ...]
    epochs: int
    batches: tuple[tuple[int, float], ...]
    counts: tuple[int, ...]
    draws: int
    ghost_epochs: int
    passes: tuple[int, ...]


SIZES = {
    "smoke": Size(
        1_024,
        300,
        (32,) * 2,
        3,
        ((64, 0.05), (512, 0.4)),
        (10, 100, 1_000),
        2,
        1,
        (2, 100, 1_000),
    ),
    "small": Size(
        20_000,
        5_000,
        (128,) * 3,
        9,
        ((128, 0.05), (2_048, 0.8)),
        (10, 100, 1_000, 10_000),
        8,
        15,
        (2, 10, 100, 1_000, 5_000),
    ),
    "full": Size(
        None,
        None,
        (512,) * 3,
        30,
        ((128, 0.05), (8_192, 1.6)),
        (10, 100, 1_000, 10_000),
        20,
        30,
        (2, 10, 100, 1_000, 5_000),
    ),
}


def run(settings: Settings) -> Result:
    """Runs the experiment; see the top of the file."""
    size = SIZES[settings.size]
    images = load_images(
        settings, "fashion_mnist", train=size.train, test=size.test, pool=2
    )
    seeds = np.arange(settings.seeds)
    kept = batch_norm(momentum=0.0)
    model = create_model("mlp", images.num_classes, kept, hidden=size.hidden)
    (small, large) = (
        train_with(model, size, images, seeds, *how) for how in size.batches
    )
    batches = [f"batch of {batch:,}" for batch, _ in size.batches]
    sampled = {
        f"{batches[0]}, trained": small["last"],
        f"{batches[1]}, one epoch": large["first"],
    }
    found = {
        "epochs": {
            str(batch): {"errors": arm["errors"], "outside": arm["outside"]}
            for (batch, _), arm in zip(size.batches, (small, large), strict=True)
        },
        "samples": {
            name: errors_by_samples(model, runs, images, size.counts, size.draws)
            for name, runs in sampled.items()
        },
        "passes": {
            str(ghost): measure_passes(
                model,
                images,
                seeds,
                ghost=ghost,
                hidden=size.hidden,
                epochs=size.ghost_epochs,
                passes=size.passes,
            )
            for ghost in GHOSTS
        },
        "counts": size.counts,
        "sizes": size.passes,
    }
    picture = functools.partial(draw, found)
    columns, rows = table_of(found)
    return Result(columns, rows, verdicts(found), picture, found, (10, 11))


def train_with(
    model: Any, size: Size, images: Images, seeds: np.ndarray, batch: int, rate: float
) -> dict[str, Any]:
    """Returns the errors by kind and the shares outside [S, epochs], and the runs."""
    inputs, labels = images.train
    per_epoch = len(labels) // batch
    third = per_epoch * size.epochs // 3
    rates = optax.piecewise_constant_schedule(rate, {third: 0.1, 2 * third: 0.1})
    optimizer = optax.chain(
        optax.add_decayed_weights(DECAY), optax.sgd(rates, momentum=0.9)
    )
    runs = start(model, inputs[:2], seeds, optimizer)
    first = runs.batch_stats
    some = np.random.default_rng(0).integers(len(labels), size=(OUTSIDE, batch))
    batches, seen = inputs[some], []

    def observe(epoch: int, runs: Runs) -> None:
        shares = {
            str(momentum): share_outside(
                model, runs.params, runs.batch_stats[str(momentum)], batches
            )
            for momentum in MOMENTA
        }
        seen.append(
            (errors_of_all(model, runs, first, images, size.counts[-1]), shares, runs)
        )

    fit(
        averaging(model),
        with_averages(runs),
        images.train,
        at_random(seeds, len(labels), batch),
        range(size.epochs),
        optimizer=optimizer,
        observe=observe,
    )
    measured = [
        {key: np.stack([one[key] for one in each], 1) for key in each[0]}
        for each in list(zip(*seen, strict=True))[:2]
    ]
    ends = {"first": seen[0][2], "last": seen[-1][2]}
    return {"errors": measured[0], "outside": measured[1], **ends}


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Returns whether the claims held."""
    small, large = found["epochs"].values()
    a, b = (
        {k: np.asarray(v) for k, v in arm["errors"].items()} for arm in (small, large)
    )
    gaps = [arm["EMA 0.9"] - arm["precise"] for arm in (a, b)]
    bare = b["debiased 0.9"] - b["precise"]
    third = bare.shape[1] // 3
    outside = np.asarray(large["outside"]["0.9"])
    last = (b["EMA 0.99"] - b["precise"])[:, -1]
    ends = [np.abs(gap[:, -1]).max() for gap in gaps]
    worse = (bare[:, :third] > 0).mean(1)
    return [
        greater(
            "more averages lie outside the batch means early than late",
            outside[:, :third].mean(1),
            outside[:, -third:].mean(1),
        ),
        always(
            "large batches, momentum 0.9: after an epoch 3 points above precise, and 2 "
            "more than with small batches",
            (gaps[1][:, 0] >= 3) & (gaps[1][:, 0] > gaps[0][:, 0] + 2),
            f"{said(gaps[1][:, 0])} and {said(gaps[0][:, 0])} points",
            source="52.8 and 39.4 % at epoch 30, batch 8,192",
        ),
        always(
            "at the end momentum 0.9 is within 0.3 points of precise",
            np.maximum(*(np.abs(gap[:, -1]) for gap in gaps)) <= 0.3,
            f"at most {ends[0]:.2f} and {ends[1]:.2f} points",
            source="24.0 and 23.7 % at batch 8,192",
        ),
        always(
            "debiased it is 1 point above after an epoch, and above in 80 % of the "
            "epochs of the first rate",
            (bare[:, 0] >= 1) & (worse >= 0.8),
            f"{said(bare[:, 0])} points, above in {100 * worse.min():.0f} % or more",
        ),
        always(
            "momentum 0.99 ends 2 points above with large batches",
            last >= 2,
            f"{said(last)} points",
        ),
        *on_samples(found),
        *on_passes(found),
    ]
