"""Patterns: nets trained on batches of few classes, and their errors in each epoch.

A batch is made of runs of `CLASSES` times M images, each normalized by itself.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax

from jaxbn import batch_norm
from jaxbn.base import Norm
from jaxbn.data import Split
from jaxbn.experiments._images import Images
from jaxbn.experiments._measure import errors, precise
from jaxbn.experiments._runs import Runs, classification, fit, sgd, start
from jaxbn.experiments._samplers import Sampler, at_random, in_patterns
from jaxbn.models import create_model
from jaxbn.training._parallel import Parallel

CLASSES = 4
"""Of a run."""


class Size(NamedTuple):
    """How much is run; `batch` is of SGD, `arms` are all unless named."""

    train: int | None
    test: int | None
    epochs: int
    batch: int = 256
    model: str = "mlp"
    options: tuple[tuple[str, Any], ...] = (("hidden", (128,) * 3),)
    pool: int = 2
    arms: tuple[str, ...] = ()


class Arm(NamedTuple):
    """How a net is trained.

    Attributes:
        norm: in its layers.
        images: M, of each class in a run; 0 for random batches.
        together: examples that are normalized together; 0 for each by itself.
        by_class: whether a run has its images class by class; else each class in turn.
    """

    norm: Norm
    images: int
    together: int
    by_class: bool = True


class Task(NamedTuple):
    """What is trained.

    Attributes:
        size: of it.
        images: to learn.
        seeds: of the runs.
        parallel: the devices that share a batch.
        steps: of the whole training.
        blank: statistics as plain batch norm keeps them, to be filled in.
    """

    size: Size
    images: Images
    seeds: np.ndarray
    parallel: Parallel | None
    steps: int
    blank: Any = None

    def model(self, norm: Norm) -> Any:
        """Returns the net with `norm` in its layers."""
        options = dict(self.size.options)
        return create_model(self.size.model, self.images.num_classes, norm, **options)

    def start(self, norm: Norm) -> Runs:
        """Returns new runs of the net."""
        few = self.images.train.inputs[:2]
        return start(self.model(norm), few, self.seeds, self.optimizer)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """SGD along a cosine."""
        return sgd(0.1, self.steps, weight_decay=5e-4)

    def run_arm(self, arm: Arm, curves: bool) -> dict[str, np.ndarray]:
        """Returns the errors of an arm in percent, [S, epochs] each.

        Unless `curves` are wanted, they are of the end only, [S, 1].
        """
        found: dict[str, list[np.ndarray]] = {}
        measure = self.measure_of(arm)

        def observe(epoch: int, runs: Runs) -> None:
            if not curves and epoch + 1 < self.size.epochs:
                return
            for name, error in measure(runs).items():
                found.setdefault(name, []).append(error)

        labels = np.asarray(self.images.train.labels)
        fit(
            classification(self.model(arm.norm)),
            self.start(arm.norm),
            self.images.train,
            rows_of(arm, self.seeds, labels, self.size.batch),
            range(self.size.epochs),
            optimizer=self.optimizer,
            parallel=self.parallel,
            observe=observe,
        )
        return {name: np.stack(each, 1) for name, each in found.items()}

    def measure_of(self, arm: Arm) -> Callable[[Runs], dict[str, np.ndarray]]:
        """Returns what measures the errors of runs, by name."""
        train, test = self.images.train, self.images.test
        if not arm.together:
            model = self.model(arm.norm)
            return lambda runs: {"population": errors(model, runs.params, {}, test)}
        batch, plain = self.size.batch, self.model(together(None))
        model = self.model(together(arm.together))
        part = Split(*(column[: len(test.labels)] for column in train))
        anyhow = arm._replace(images=0)
        splits = {
            "train": in_batches(part, arm, batch),
            "same": in_batches(test, arm, batch),
            "random": in_batches(test, anyhow, batch),
        }

        def measure(runs: Runs) -> dict[str, np.ndarray]:
            stats = precise(plain, runs.params, self.blank, train.inputs)
            found = {"population": errors(plain, runs.params, stats, test)}
            for name, split in splits.items():
                how = {"train": True, "batch": batch}
                found[name] = errors(model, runs.params, stats, split, **how)
            return found

        return measure


@functools.cache
def together(size: int | None) -> Norm:
    """Returns batch norm of so many examples; one object, so that programs are kept."""
    return batch_norm(normalization_batch_size=size)


def rows_of(arm: Arm, seeds: np.ndarray, labels: np.ndarray, batch: int) -> Sampler:
    """Returns the sampler of an arm."""
    if not arm.images:
        return at_random(seeds, len(labels), batch)
    pattern = {"classes": CLASSES, "images": arm.images}
    rows = in_patterns(seeds, labels, batch, **pattern)
    if arm.by_class:
        return rows

    def in_turn(epoch: int) -> np.ndarray:
        found = rows(epoch)
        runs = found.reshape(*found.shape[:2], -1, CLASSES, arm.images)
        return runs.swapaxes(-1, -2).reshape(found.shape)

    return in_turn


def in_batches(split: Split, arm: Arm, batch: int) -> Split:
    """Returns a split as an arm's batches have it, without what is left over."""
    rows = rows_of(arm, np.zeros(1, int), np.asarray(split.labels), batch)(0).ravel()
    return Split(split.inputs[rows], split.labels[rows])
