"""Contrasts: two views of each image, and which of all keys is a query's own.

A view is shifted by up to a pixel each way and a third of its pixels are dropped.
Scores are cosines over a temperature; keys of a query's group of 4 are no negatives.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxbn import shuffle, unshuffle
from jaxbn.base import Array
from jaxbn.data import Split
from jaxbn.experiments._images import Images
from jaxbn.experiments._measure import logits
from jaxbn.experiments._runs import Loss, Runs

GROUP = 4
"""Images normalized together, and without negatives among them."""
TEMPERATURE = 0.1
NEIGHBOURS = 20


def view(key: Array, images: Array, *, axis_name: str | None) -> Array:
    """Returns a view of images [N, H, W, C], each by its place in the whole batch."""
    first = 0 if axis_name is None else lax.axis_index(axis_name) * len(images)

    def one(place: Array, image: Array) -> Array:
        mine = jax.random.fold_in(key, place)
        # One draw of bytes compiles and runs faster than integers and floats apart.
        move, drop = jnp.split(jax.random.bits(mine, (2 + image.size,), jnp.uint8), [2])
        shift = move.astype(int) % 3 - 1
        image = jnp.roll(image, shift, (0, 1))  # The border of a digit is empty.
        return image * (drop.reshape(image.shape) >= 256 // 3)

    return jax.vmap(one)(first + jnp.arange(len(images)), images)


def contrasts(
    model: Any,
    variables: Any,
    images: Array,
    key: Array,
    shuffles: bool,
    axis_name: str | None = None,
) -> tuple[Array, Array, Any]:
    """Returns scores [N, keys], the place of each own key [N], and the statistics.

    Keys of a query's group, but its own, have a score of -inf.
    """
    first, second, order = jax.random.split(key, 3)

    def encode(variables: Any, images: Array) -> tuple[Array, Any]:
        out, new = model.apply(variables, images, True, mutable=["batch_stats"])
        size = jnp.sqrt(jnp.sum(out**2, -1, keepdims=True) + 1e-12)
        return out / size, {**variables, **new}

    queries, variables = encode(variables, view(first, images, axis_name=axis_name))
    seen = view(second, images, axis_name=axis_name)
    if shuffles:
        seen = shuffle(seen, order, axis_name=axis_name)
    keys, variables = encode(variables, seen)
    if shuffles:
        keys = unshuffle(keys, order, axis_name=axis_name)
    own = jnp.arange(len(images))
    if axis_name is not None:
        keys = lax.all_gather(keys, axis_name, tiled=True)
        own = own + lax.axis_index(axis_name) * len(images)
    places = jnp.arange(len(keys))[None]
    beside = (places // GROUP == own[:, None] // GROUP) & (places != own[:, None])
    scores = jnp.where(beside, -jnp.inf, queries @ keys.T / TEMPERATURE)
    return scores, own, variables.get("batch_stats", {})


def contrastive(model: Any, shuffles: bool, axis_name: str | None) -> Loss:
    """Returns the InfoNCE of a batch."""

    def loss(params: Any, stats: Any, batch: Split, key: Array) -> tuple[Array, Any]:
        variables = {"params": params, "batch_stats": stats}
        images = jnp.asarray(batch.inputs)
        scores, own, stats = contrasts(
            model, variables, images, key, shuffles, axis_name
        )
        each = optax.softmax_cross_entropy_with_integer_labels(scores, own)
        return each.mean(), stats

    return loss


@functools.partial(jax.jit, static_argnames=("model", "shuffles"))
def pretext(model: Any, runs: Runs, batches: Array, shuffles: bool) -> Array:
    """Returns the pretext accuracy of R runs on batches [M, B, ...] in percent, [R]."""

    def one(params: Any, stats: Any) -> Array:
        def accuracy(found: tuple[Array, Array]) -> Array:
            place, images = found
            variables = {"params": params, "batch_stats": stats}
            key = jax.random.fold_in(jax.random.key(0), place)
            scores, own, _ = contrasts(model, variables, images, key, shuffles)
            return 100 * jnp.mean(scores.argmax(-1) == own)

        return lax.map(accuracy, (jnp.arange(len(batches)), batches)).mean()

    return jax.vmap(one)(runs.params, runs.batch_stats)


def probe(model: Any, params: Any, stats: Any, images: Images) -> np.ndarray:
    """Returns the accuracy of nearest neighbours by training images in percent, [S]."""
    known, asked = (
        np.array(logits(model, params, stats, split.inputs))
        for split in (images.train, images.test)
    )
    for features in (known, asked):
        features /= np.linalg.norm(features, axis=-1, keepdims=True)
    labels = np.asarray(images.train.labels)
    found = []
    for a, b in zip(asked, known, strict=True):
        near = np.argpartition(-a @ b.T, NEIGHBOURS, -1)[:, :NEIGHBOURS]
        votes = labels[near][:, :, None] == np.arange(images.num_classes)
        said = votes.sum(1).argmax(-1)
        found.append(100 * (said == images.test.labels).mean())
    return np.array(found)
