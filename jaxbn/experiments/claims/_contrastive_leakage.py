"""Contrastive learning that cheats through batch statistics, and a pure leak.

InfoNCE (`_contrasts`): of each image two views go through an MLP, and a query has to
find its key among those of a batch of 256. Queries, and keys, are normalized in groups
of 4, as devices of 4 images would; negatives come from other groups only, as from a
queue. The statistics of a group mark its queries and its keys alike. Arms: 'groups';
'shuffled keys' (`shuffle` before the encoder of keys, `unshuffle` behind, as MoCo);
'synchronized', all 256 together; group norm. Pretext accuracy is measured on test
images with keys in place and shuffled: what a net loses by shuffling came to it by way
of the statistics. The probe is the accuracy of 20 nearest neighbours in the space of
the encoder with precise statistics.

The pure leak (`_pairs`): images come in pairs, the target of each is the pixels of the
other, which nothing in an image tells; an MLP with statistics of pairs, of 16 images,
and with group norm. Mean squared error over that of predicting the mean image.

Claims (Wu and Johnson 2021, section 6.2; He et al. 2020, section 3.3; 4 is of
perschi's blog).
1. A net trained in groups has less than two thirds of its pretext accuracy when keys
   are shuffled at test.
2. It has learned less beside the leak: tested with shuffled keys, it is worse than the
   net trained with them.
3. The net trained in groups is over 1.5 times as good at the pretext task as the one
   trained with shuffled keys, each measured as it was trained, and not better at the
   probe by 1 point.
4. Pairs: with mini-batch statistics the error is below 0.8 of that of predicting the
   mean image, with population statistics above it.
5. With statistics of 16 images, and with group norm, the error is within 3 % of that of
   predicting the mean image.

    python -m jaxbn.experiments contrastive_leakage --workdir=W --data_dir=DIR

Measured numbers: docs/experiments/results.md. The bounds of 3 to 5 come from pilot
runs, that of 1 was set before the first run. The views and the second claim were chosen
after a first run, whose views (half of the pixels dropped, noise, groups of 8) no net
could tell apart, so that none of 1 to 3 was reproduced. The second had said that the
net trained with shuffled keys loses nothing by them, which is wrong: keys beside their
queries are normalized alike.

With `--num_devices=8` eight devices share a batch, and shuffling is across them. Run so
on eight parts of two CPU cores, with the seeds 0 to 4, all claims held too.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from jaxbn import batch_norm, group_norm
from jaxbn.base import Norm
from jaxbn.experiments._draw import bars
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._images import load_images
from jaxbn.experiments._measure import precise, shuffled_split
from jaxbn.experiments._runs import axis_of, devices_of
from jaxbn.experiments._verdicts import BEFORE, PILOT, Verdict, greater, jointly, less
from jaxbn.experiments.claims._contrasts import GROUP, contrastive, pretext, probe
from jaxbn.experiments.claims._pairs import Task, learn_pairs, pictures_of
from jaxbn.models import create_model

SOURCE = "Wu and Johnson 2021, section 6.2; He et al. 2020, section 3.3; perschi's blog"
PLAIN = batch_norm()
BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.1)}
BELOW |= {"ncols": 2, "fontsize": 9}
"""Where legends are: they cover no bars there."""
STATISTICS = ("mini-batch", "population")
ACCURACIES = {
    "keys in place": "pretext, keys in place",
    "keys shuffled": "pretext, keys shuffled",
    "probe": "nearest neighbours",
}
LEAST, MOST = 0.1, 100.0
"""Ends of accuracies (percent, chance is 0.4) and errors (over the mean image's) in
verdicts: an error that is not finite counts as the largest."""
VIEWS = (
    "milder views and groups of 4, after a first run with half of the pixels dropped, "
    "noise and groups of 8"
)


class Size(NamedTuple):
    """How much is run.

    Attributes:
        train: training examples; None for all.
        test: test examples, a multiple of `batch`.
        epochs: of contrastive learning.
        pair_epochs: of the pure leak.
        hidden: widths of the encoder.
        pair_hidden: widths of the net of the pure leak.
        batch: images a step.
        pool: pixels of a side that become one.
        arms: of contrastive learning, how many of the first ones.
        together: images of the pure leak normalized together; 0 for group norm.
    """

    train: int | None
    test: int
    epochs: int
    pair_epochs: int
    hidden: tuple[int, ...] = (128, 128)
    pair_hidden: tuple[int, ...] = (256, 256, 256)
    batch: int = 256
    pool: int = 2
    arms: int = 4
    together: tuple[int, ...] = (2, 16, 0)


SIZES = {
    "smoke": Size(512, 256, 1, 1, (32,), (32,), 64, arms=2, together=(2,)),
    "small": Size(10_000, 2_048, 8, 20),
    "full": Size(None, 8_192, 100, 100, (1024,) * 3, (1024,) * 3, pool=1),
}


def measure(settings: Settings) -> dict[str, Any]:
    """Returns accuracies, errors and pictures; see the top of the file."""
    size = SIZES[settings.size]
    parallel = devices_of(settings, size.batch)  # Before anything is computed.
    limits = {"train": size.train, "test": size.test, "pool": size.pool}
    images = load_images(settings, "mnist", **limits)
    images = images._replace(test=shuffled_split(images.test))
    seeds = np.array(settings.seed_numbers)
    task = Task(images, seeds, size.batch, parallel)
    found: dict[str, Any] = {"contrastive": learn_contrasts(task, size)}
    pairs = learn_pairs(task, size.pair_hidden, size.pair_epochs, size.together)
    return {**found, "pairs": pairs[0], "pictures": pairs[1]}


def show(found: dict[str, Any]) -> Result:
    """Returns what the numbers show."""
    columns = ("net", "pretext accuracy, keys in place %")
    columns += ("pretext accuracy, keys shuffled %", "nearest neighbours, accuracy %")
    columns += ("error over the mean image's, mini-batch statistics",)
    columns += ("error over the mean image's, population statistics",)
    rows: list[tuple[Any, ...]] = [
        (name, *(values[key] for key in ACCURACIES), "", "")
        for name, values in found["contrastive"].items()
    ]
    rows += [
        (f"pairs, {label}", "", "", "", *(found["pairs"][name][k] for k in STATISTICS))
        for name, label in named_pairs(found).items()
    ]
    drawn = functools.partial(draw, found)
    return Result(columns, rows, verdicts(found), drawn, found, (9, 8))


def learn_contrasts(task: Task, size: Size) -> dict[str, dict[str, np.ndarray]]:
    """Returns pretext accuracy, the same with keys shuffled, and the probe's; [S]."""
    images = task.images
    axis = axis_of(task.parallel)

    def encoder(norm: Norm) -> Any:
        return create_model("mlp", 64, norm, hidden=size.hidden)

    test = np.asarray(images.test.inputs)
    batches = test.reshape(-1, size.batch, *test.shape[1:])
    groups = {"normalization_batch_size": GROUP}
    local = batch_norm(**groups, axis_name=axis), encoder(batch_norm(**groups))
    everything = batch_norm(axis_name=axis), encoder(PLAIN)
    alone = group_norm(8), encoder(group_norm(8))
    arms = {
        "groups": (*local, False),
        "shuffled keys": (*local, True),
        "synchronized": (*everything, False),
        "group norm": (*alone, False),
    }
    found = {}
    for name in list(arms)[: size.arms]:
        norm, whole, shuffles = arms[name]
        model = encoder(norm)
        loss = contrastive(model, shuffles, axis)
        runs = task.fit(loss, model, size.epochs, 3e-3)
        stats = precise(
            encoder(PLAIN), runs.params, runs.batch_stats, images.train.inputs
        )
        judged = whole if name == "group norm" else encoder(PLAIN)
        found[name] = {
            "keys in place": np.asarray(pretext(whole, runs, batches, False)),
            "keys shuffled": np.asarray(pretext(whole, runs, batches, True)),
            "probe": probe(judged, runs.params, stats, images),
        }
    return found


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Returns whether the claims held."""
    groups, moved = (found["contrastive"][name] for name in ("groups", "shuffled keys"))
    place, moves = (
        np.maximum(groups[key], LEAST) for key in ("keys in place", "keys shuffled")
    )
    known = place / np.maximum(moved["keys shuffled"], LEAST)
    pairs = {
        name: {key: capped(error) for key, error in arm.items()}
        for name, arm in found["pairs"].items()
    }
    two = pairs.pop("2")
    said = [
        less(
            "a contrastive net trained in groups keeps less than 2/3 of its pretext "
            "accuracy if keys are shuffled",
            moves / place,
            by=-2 / 3,
            chosen=BEFORE,
            changed=VIEWS,
        ),
        less(
            "tested with shuffled keys, the net trained in groups is worse than the "
            "one trained with them",
            groups["keys shuffled"],
            moved["keys shuffled"],
            changed=f"{VIEWS}; the claim, which had been that the net trained with "
            "shuffled keys loses nothing by them",
        ),
        jointly(
            "a net trained in groups has 1.5 times the pretext accuracy of shuffled "
            "keys, no better nearest neighbours",
            [
                greater("ratio of accuracies", known, by=1.5, chosen=PILOT),
                less(
                    "nearest neighbours",
                    groups["probe"],
                    moved["probe"],
                    by=-1,
                    chosen=PILOT,
                ),
            ],
            changed=VIEWS,
        ),
        jointly(
            "the error on pairs is below 0.8 of the mean image's with mini-batch "
            "statistics, above with population",
            [
                less("mini-batch", two["mini-batch"], by=-0.8, chosen=PILOT),
                greater("population", two["population"], by=1, chosen=PILOT),
            ],
            source="squared errors of 0.019 and 0.098, a convolutional net",
        ),
    ]
    if pairs:
        apart = [abs(error - 1) for arm in pairs.values() for error in arm.values()]
        claim = (
            "the error on pairs is within 3 % of the mean image's with statistics of "
            "16 and with group norm"
        )
        said.append(less(claim, np.max(apart, 0), by=-0.03, chosen=PILOT))
    return said


def named_pairs(found: dict[str, Any]) -> dict[str, str]:
    """Returns the arms of the pure leak in words."""
    return {n: f"groups of {n}" if n.isdigit() else n for n in found["pairs"]}


def capped(errors: Any) -> np.ndarray:
    """Returns errors of which none is above `MOST`, or not finite."""
    return np.minimum(np.nan_to_num(np.asarray(errors, float), nan=MOST), MOST)


def draw(found: dict[str, Any], figure: Any) -> None:
    """Draws accuracies and errors as bars, and pictures of pairs."""
    upper, lower = figure.subfigures(2, 1)
    left, right = upper.subplots(1, 2, width_ratios=(3, 2))
    arms = found["contrastive"]
    groups: dict[str, Any] = {
        label: np.stack([arm[key] for arm in arms.values()], 1)
        for key, label in ACCURACIES.items()
    }
    bars(left, list(arms), groups)
    left.set(title="contrastive", ylabel="accuracy, %")
    left.legend(**BELOW)
    pairs = found["pairs"]
    groups = {
        key: np.stack([arm[key] for arm in pairs.values()], 1) for key in STATISTICS
    }
    bars(right, list(named_pairs(found).values()), groups)
    right.axhline(1, color="k", linestyle=":", label="mean image")
    right.set(title="pairs", ylabel="squared error / mean image's")
    right.legend(**BELOW)
    for axes in (left, right):
        axes.tick_params(labelsize=9)
    names, pictures = (
        ("input", "the other", *STATISTICS),
        pictures_of(found["pictures"]),
    )
    for (row, each), images in zip(
        enumerate(lower.subplots(4, pictures.shape[1])), pictures, strict=True
    ):
        for axes, image in zip(each, images, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
        each[0].set_ylabel(names[row], rotation=0, ha="right", va="center", fontsize=9)
