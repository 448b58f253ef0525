"""Residual nets with ghost batches: the recipe, and training step by step.

    task = prepare(settings, size)
    for seeds in groups(settings.seed_numbers):
        runs = task.start(seeds)
        runs = train(task, ghost(32), runs, size.batch, range(size.epochs))

R runs lie along the first axis of everything; `groups` says which seeds are trained
together. Training images are cropped and mirrored at random.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxbn import batch_norm, frozen_norm
from jaxbn.base import Array, Norm
from jaxbn.data import Split, augment_crop_flip, gather
from jaxbn.experiments._harness import Settings
from jaxbn.experiments._images import Images, load_images
from jaxbn.experiments._measure import shuffled_split
from jaxbn.experiments._runs import Runs, classification, sgd, start
from jaxbn.experiments._samplers import at_random
from jaxbn.models import create_model

FROZEN = frozen_norm()
PLAIN = batch_norm()
Observe = Callable[[Runs], None]


class Size(NamedTuple):
    """How much is run, and the recipe.

    Attributes:
        model: its name.
        options: of the model.
        pool: pixels of a side that become one.
        train: training images; None for all.
        test: validation images to test on, a multiple of `batch`.
        target: further ones that target statistics are of.
        measured: training images that population statistics are of.
        epochs: passes over the training images, along a cosine.
        batch: of SGD, in images.
        other: the batch of the arm that compares averages.
        learning_rate: at the start with `batch`; proportional to it with `other`.
        sizes: of the normalization batches, ascending.
        middle: the one of them that averages and target images are looked at with.
    """

    model: str
    options: tuple[tuple[str, Any], ...]
    pool: int
    train: int | None
    test: int
    target: int
    measured: int
    epochs: int
    batch: int
    other: int
    learning_rate: float
    sizes: tuple[int, ...]
    middle: int = 32


class Task(NamedTuple):
    """What is trained, and on which images it is measured.

    Attributes:
        size: of it.
        images: to learn.
        tested: validation images to test on.
        target: further ones that target statistics are of.
        known: as many training images as `tested` has.
        measured: augmented training images that population statistics are of.
    """

    size: Size
    images: Images
    tested: Split
    target: Split
    known: Split
    measured: Array

    def model(self, norm: Norm) -> Any:
        """Returns the net with `norm` in its layers."""
        options = dict(self.size.options)
        return create_model(self.size.model, self.images.num_classes, norm, **options)

    def start(self, seeds: Sequence[int]) -> Runs:
        """Returns new runs, for all arms: they begin with the same weights."""
        model, recipe = self.model(PLAIN), self.recipe(self.size.batch)
        return start(model, self.images.train.inputs[:2], np.array(seeds), recipe)

    def recipe(self, batch: int) -> optax.GradientTransformation:
        """Returns SGD, momentum 0.9, L2 of 5e-4, a cosine; one object per batch."""
        steps = self.size.epochs * (len(self.images.train.labels) // batch)
        rate = self.size.learning_rate * batch / self.size.batch
        return descent(rate, steps)


descent = functools.cache(functools.partial(sgd, weight_decay=5e-4))


@functools.cache
def ghost(size: int) -> Norm:
    """Returns batch norm of `size` images together; one object per size."""
    return batch_norm(normalization_batch_size=size, momentum=0.9)


def groups(seeds: Sequence[int]) -> list[list[int]]:
    """Returns which seeds are trained by one program.

    On a CPU each by itself: convolutions of several nets under `vmap` are grouped, for
    which XLA has no fast kernel. A step of one net of five took 381 ms, and 79 ms by
    itself (ResNet-8 of width 8, 256 images of 16 x 16, two x86-64 cores, jax 0.10.2);
    within `lax.scan` or `lax.map` 930 ms, so that steps are called one by one. On an
    accelerator all together, which was not measured.
    """
    if jax.default_backend() == "cpu":
        return [[seed] for seed in seeds]
    return [list(seeds)]


def prepare(settings: Settings, size: Size) -> Task:
    """Returns the task of the settings."""
    limits = {"train": size.train, "test": size.test + size.target}
    images = load_images(settings, "cifar10_30k", **limits, pool=size.pool)
    test, known = shuffled_split(images.test), shuffled_split(images.train)
    tested = Split(*(column[: size.test] for column in test))
    target = Split(*(column[size.test :] for column in test))
    measured = augmented(jax.random.key(0), jnp.asarray(known.inputs[: size.measured]))
    known = Split(*(column[: size.test] for column in known))
    return Task(size, images, tested, target, known, measured)


def augmented(key: Array, inputs: Array) -> Array:
    """Returns images shifted by up to an eighth of their side, mirrored or not."""
    return augment_crop_flip(key, inputs, padding=inputs.shape[1] // 8)


@functools.partial(jax.jit, static_argnames=("model", "optimizer"))
def step(
    model: Any,
    optimizer: optax.GradientTransformation,
    runs: Runs,
    rows: Array,
    data: Any,
) -> Runs:
    """Returns the runs after a step of SGD on the examples `rows` [R, B] of `data`."""
    find = jax.value_and_grad(classification(model), has_aux=True)

    def one(run: Runs, rows: Array) -> Runs:
        key = jax.random.fold_in(jax.random.key(run.seed), run.step)
        batch = gather(data, rows)
        batch = batch._replace(inputs=augmented(key, batch.inputs))
        (_, stats), grads = find(run.params, run.batch_stats, batch, key)
        updates, opt_state = optimizer.update(grads, run.opt_state, run.params)
        params = optax.apply_updates(run.params, updates)
        return Runs(params, stats, opt_state, run.seed, run.step + 1)

    return jax.vmap(one)(runs, rows)


def train(
    task: Task,
    norm: Norm,
    runs: Runs,
    batch: int,
    epochs: range,
    observe: Observe = lambda runs: None,
) -> Runs:
    """Returns the runs after some epochs; `observe(runs)` is called after each."""
    model, recipe = task.model(norm), task.recipe(batch)
    data: Any = jax.device_put(task.images.train)
    rows = at_random(np.asarray(runs.seed), len(data.labels), batch)
    for epoch in epochs:
        for each in np.moveaxis(rows(epoch), 1, 0):
            runs = step(model, recipe, runs, each, data)
        observe(runs)
    return runs
