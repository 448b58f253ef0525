"""Shifted: nets trained on clean images, and their errors on others.

What normalizes is from the training images, from some of the others, from the batch at
hand, or mixed.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbn import adaptive_norm, batch_norm
from jaxbn.data import Split, corrupt, load
from jaxbn.experiments._harness import Settings
from jaxbn.experiments._images import Images
from jaxbn.experiments._measure import errors, precise
from jaxbn.experiments._runs import classification, fit, sgd, start
from jaxbn.experiments._samplers import at_random
from jaxbn.experiments.claims._sweep import whole_batches
from jaxbn.models import create_model

SOURCES = ("source", "target", "mini-batch", "mixed")
"""Where statistics are from."""
TOGETHER, PRIOR = 32, 16
"""Images that are normalized together, and what the source counts in a mixture."""


class Size(NamedTuple):
    """How much is run.

    Attributes:
        train: training examples; None for all.
        target: test examples that target statistics are measured on.
        test: others that are tested on, at most.
        epochs: passes over the training examples.
        batches: n, of test images that come together.
        priors: N, in examples.
        model: its name.
        options: of the model.
        pool: pixels of a side that become one.
    """

    train: int | None
    target: int
    test: int
    epochs: int
    batches: tuple[int, ...]
    priors: tuple[int, ...]
    model: str = "mlp"
    options: tuple[tuple[str, Any], ...] = (("hidden", (128,) * 3),)
    pool: int = 2


class Evaluation:
    """Trained nets, one a seed, and their errors by where statistics are from."""

    def __init__(self, settings: Settings, size: Size, images: Images) -> None:
        """Trains the nets."""
        self.size, self.images = size, images
        self.plain = self.model(batch_norm())
        seeds = np.array(settings.seed_numbers)
        inputs, labels = images.train
        model = self.model(batch_norm(momentum=0.9, normalization_batch_size=TOGETHER))
        steps = size.epochs * (len(labels) // 128)
        optimizer = sgd(0.05, steps, weight_decay=5e-4)
        self.runs, _ = fit(
            classification(model),
            start(model, inputs[:2], seeds, optimizer),
            images.train,
            at_random(seeds, len(labels), 128),
            range(size.epochs),
            optimizer=optimizer,
        )
        self.source = self.statistics(np.asarray(inputs))
        self.mixtures = {
            prior: self.model(adaptive_norm(prior_count=prior))
            for prior in sorted({0, PRIOR, *size.priors})
        }

    def model(self, norm: Any) -> Any:
        """Returns the net with `norm` in its layers."""
        options = dict(self.size.options)
        return create_model(self.size.model, self.images.num_classes, norm, **options)

    def statistics(self, inputs: np.ndarray) -> Any:
        """Returns the precise statistics over `inputs`."""
        return precise(self.plain, self.runs.params, self.runs.batch_stats, inputs)

    def error(self, model: Any, stats: Any, split: Split, **how: Any) -> np.ndarray:
        """Returns the errors in percent, [S]."""
        return errors(model, self.runs.params, stats, split, **how)

    def corrupted(self, split: Split, kind: str, strength: int) -> Split:
        """Returns a split corrupted on [0, 1] and standardized as before."""
        mean, std = self.images.mean, self.images.std
        pixels = np.clip(split.inputs * std + mean, 0, 1)
        changed = corrupt(pixels, kind, strength, seed=strength)
        return Split((changed - mean) / std, split.labels)

    def rest(self, split: Split) -> Split:
        """Returns what is tested on, a multiple of all batches."""
        return held_out(split, self.size)

    def by_source(self, split: Split) -> dict[str, np.ndarray]:
        """Returns the errors by where statistics are from, [S] each."""
        target = self.statistics(split.inputs[: self.size.target])
        rest = self.rest(split)
        found = (
            self.error(self.plain, self.source, rest),
            self.error(self.plain, target, rest),
            self.error(self.mixtures[0], self.source, rest, batch=TOGETHER),
            self.error(self.mixtures[PRIOR], self.source, rest, batch=TOGETHER),
        )
        return dict(zip(SOURCES, found, strict=True))

    def mixing(self, split: Split) -> dict[str, np.ndarray]:
        """Returns the errors [S, n] for each prior N."""
        rest = self.rest(split)

        def of(prior: int, batch: int) -> np.ndarray:
            return self.error(self.mixtures[prior], self.source, rest, batch=batch)

        return {
            str(prior): np.stack([of(prior, n) for n in self.size.batches], 1)
            for prior in self.size.priors
        }


def held_out(split: Split, size: Size) -> Split:
    """Returns what target statistics are not measured on, a multiple of all batches."""
    rest = Split(*(column[size.target :] for column in split))
    return whole_batches(rest, math.lcm(TOGETHER, *size.batches))


def usps_like(settings: Settings, size: Size, images: Images) -> Split:
    """Returns images of USPS with the pixels and the standardization of `images`.

    A digit of USPS fills its image, one of MNIST a box of 20 of 28 pixels.
    """
    usps = load(
        "usps", data_dir=settings.data_dir, train_limit=size.target + size.test
    ).train
    pixels = np.asarray(usps.inputs[:], np.float32) / 255
    side = images.test.inputs.shape[1]
    box, edge = side - 2 * (side // 7), side // 7
    resized = jax.image.resize(pixels, (len(pixels), box, box, 1), "linear")
    framed = np.pad(resized, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    inputs = (framed - images.mean) / images.std
    return Split(inputs, np.asarray(usps.labels[:]))
