"""Sweeps of the normalization batch size: one recipe, one batch of SGD, many norms.

    task = prepare(settings, SIZES[settings.size])
    runs = train(task, batch_norm(normalization_batch_size=8))
    population_errors(task, runs)            [S], precise statistics
    minibatch_errors(task, model, runs)      [S], mini-batches normalize themselves

A task is a data set, a network and a recipe; runs are its seeds, side by side.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxbn import batch_norm
from jaxbn.base import Norm
from jaxbn.data import Split
from jaxbn.experiments._harness import Settings
from jaxbn.experiments._images import Images, load_images
from jaxbn.experiments._measure import errors, precise, shuffled_split
from jaxbn.experiments._runs import Loss, Runs, classification, fit, sgd, start
from jaxbn.experiments._samplers import at_random
from jaxbn.models import create_model
from jaxbn.training import ConfigError
from jaxbn.training._parallel import Parallel

PLAIN = batch_norm()
"""Evaluates runs of any batch norm; one object, so that its programs are shared."""
ENTRIES = ("mean", "var")
"""Of the state of a batch norm, whatever else a variant keeps."""


class Size(NamedTuple):
    """How much is run, and the recipe.

    Attributes:
        train: training examples; None for all.
        test: test examples.
        epochs: passes over them, along a cosine.
        sizes: of the normalization batches, ascending.
        model: its name.
        options: of the model.
        pool: pixels of a side that become one.
        batch: of SGD, in examples.
        learning_rate: at the start.
    """

    train: int | None
    test: int | None
    epochs: int
    sizes: tuple[int, ...]
    model: str = "mlp"
    options: tuple[tuple[str, Any], ...] = (("hidden", (128,) * 3),)
    pool: int = 2
    batch: int = 256
    learning_rate: float = 0.1


FULL = Size(
    None,
    None,
    30,
    (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
    model="resnet20",
    options=(),
    pool=1,
    batch=1024,
)
"""The sweep of the paper's size, for an accelerator."""


class Task(NamedTuple):
    """What is trained.

    Attributes:
        size: of it.
        images: to learn.
        seeds: of the runs.
    """

    size: Size
    images: Images
    seeds: tuple[int, ...]

    def model(self, norm: Norm | None) -> Any:
        """Returns the network with `norm` in its layers."""
        options = dict(self.size.options)
        return create_model(self.size.model, self.images.num_classes, norm, **options)


def prepare(settings: Settings, size: Size) -> Task:
    """Returns the task of the settings; test examples come in an order of chance."""
    limits = {"train": size.train, "test": size.test}
    images = load_images(settings, "fashion_mnist", **limits, pool=size.pool)
    images = images._replace(test=shuffled_split(images.test))
    return Task(size, images, settings.seed_numbers)


def train(
    task: Task,
    norm: Norm | None,
    *,
    rate: float = 1.0,
    batch: int | None = None,
    epochs: int | None = None,
    wrap: Callable[[Loss], Loss] = lambda loss: loss,
    parallel: Parallel | None = None,
    observe: Callable[[int, Runs], Any] | None = None,
) -> Runs:
    """Returns the runs of all seeds: SGD, momentum 0.9, L2 of 5e-4, a cosine.

    Args:
        task: to learn.
        norm: in the layers of the network.
        rate: a factor of the learning rate.
        batch: of SGD, if it is not the task's.
        epochs: if they are not the task's.
        wrap: `wrap(loss)` is the loss to take.
        parallel: the devices that share a batch.
        observe: called after each epoch.
    """
    size, inputs = task.size, task.images.train.inputs
    batch, epochs = batch or size.batch, epochs or size.epochs
    steps = epochs * (len(inputs) // batch)
    optimizer = sgd(rate * size.learning_rate, steps, weight_decay=5e-4)
    model = task.model(norm)
    runs, _ = fit(
        wrap(classification(model)),
        start(model, inputs[:2], np.asarray(task.seeds), optimizer),
        task.images.train,
        at_random(task.seeds, len(inputs), batch),
        range(epochs),
        optimizer=optimizer,
        parallel=parallel,
        observe=observe,
    )
    return runs


def plain_stats(batch_stats: Any) -> Any:
    """Returns the statistics as plain batch norm keeps them."""
    if "mean" in batch_stats:
        return {entry: batch_stats[entry] for entry in ENTRIES}
    return {name: plain_stats(part) for name, part in batch_stats.items()}


def population_errors(
    task: Task, runs: Runs, split: Split | None = None, stats: Any = None
) -> np.ndarray:
    """Returns the errors of the runs with population statistics in percent, [S].

    Args:
        task: of the runs.
        runs: of a batch norm; of a net without one the errors are the same anyhow.
        split: to evaluate on; the test examples unless given.
        stats: what normalizes; the precise statistics of the training data, measured
            over batches of 1,000, unless given.
    """
    model = task.model(PLAIN)
    if stats is None:
        stats = precise_stats(task, runs)
    split = task.images.test if split is None else split
    return errors(model, runs.params, stats, split)


def precise_stats(task: Task, runs: Runs) -> Any:
    """Returns the precise statistics of the runs over the training data."""
    stats, inputs = plain_stats(runs.batch_stats), task.images.train.inputs
    return precise(task.model(PLAIN), runs.params, stats, inputs)


def minibatch_errors(
    task: Task, model: Any, runs: Runs, split: Split | None = None
) -> np.ndarray:
    """Returns the errors where mini-batches normalize themselves in percent, [S].

    Args:
        task: of the runs.
        model: whose norm says how many examples are normalized together; one object
            for all splits, so that its program is compiled once.
        runs: of a batch norm.
        split: in the order that mini-batches come; the test examples unless given. What
            is left over from whole batches is left out.
    """
    split = task.images.test if split is None else split
    batch = task.size.batch
    whole, stats = whole_batches(split, batch), plain_stats(runs.batch_stats)
    return errors(model, runs.params, stats, whole, train=True, batch=batch)


def whole_batches(split: Split, batch: int) -> Split:
    """Returns a split without what is left over from whole batches.

    For norms that take the examples at hand as they come: evaluation pads the last
    batch with others.

    Raises:
        ConfigError: (a ValueError) if not one batch is whole.
    """
    examples = len(split.labels)
    if examples < batch:
        raise ConfigError(
            f"there are {examples} examples to test on, expected at least {batch}, "
            "which are normalized together; choose a larger data set"
        )
    return Split(*(column[: examples // batch * batch] for column in split))


def training_sample(task: Task) -> Split:
    """Returns as many training examples as there are test examples."""
    train = shuffled_split(task.images.train)
    return Split(*(column[: len(task.images.test.labels)] for column in train))
