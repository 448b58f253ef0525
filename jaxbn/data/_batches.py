"""Batches as rows of indices, and what a jitted loop does with them.

An epoch is an int32 array [steps, batch_size] of row numbers. A small set lies on the
device, and `lax.scan` runs over the rows:

    batch = gather(split, rows)                          # inside jit
    x = to_float(batch.inputs, mean, std)

Training shuffles and drops the incomplete last batch; evaluation keeps the order,
pads the last batch and says with a mask what counts.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from jaxbn._values import (
    as_number_dtype,
    as_numbers,
    check_count,
    check_flags,
    check_key,
    shown,
)
from jaxbn.data._order import Seed, shuffled_order

Tree = TypeVar("Tree")


def num_batches(num_examples: int, batch_size: int, *, drop_last: bool = False) -> int:
    """How many batches make one pass; the incomplete last one counts unless dropped.

    Raises:
        ValueError: if `batch_size` is below 1, or one of the two no int.

    Example:
        >>> num_batches(10, 4), num_batches(10, 4, drop_last=True)
        (3, 2)
    """
    check_count("num_examples", num_examples)
    check_count("batch_size", batch_size, 1)
    check_flags(drop_last=drop_last)
    return num_examples // batch_size if drop_last else -(-num_examples // batch_size)


def epoch_indices(
    key_or_seed: Seed, num_examples: int, batch_size: int, epoch: int
) -> np.ndarray:
    """The shuffled batches of one training epoch: int32 [steps, batch_size].

    A pure function of its arguments, the same on every platform and version (see
    `_order`), so that a resumed run continues with the epoch it would have had. The
    num_examples % batch_size rows left over are dropped; each epoch drops others.

    Args:
        key_or_seed: an integer below 2**64, or a JAX key (concrete, not traced).
        num_examples: rows to shuffle.
        batch_size: rows a step.
        epoch: 0, 1, ...; each has its own order.

    Raises:
        ValueError: if there are fewer examples than `batch_size`, or a number that
            must not be negative is.

    Example:
        >>> epoch_indices(0, 7, 3, epoch=1).shape
        (2, 3)
    """
    steps = num_batches(num_examples, batch_size, drop_last=True)
    if steps == 0:
        raise ValueError(
            f"{num_examples} examples do not fill one batch of {batch_size}; "
            f"use a batch_size of at most {num_examples} or more examples"
        )
    check_count("epoch", epoch, most=2**63)
    order = shuffled_order(num_examples, key_or_seed, stream=epoch)
    kept = order[: steps * batch_size]
    return kept.reshape(steps, batch_size).astype(np.int32)


def eval_indices(num_examples: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """All rows in order, the last batch padded with row 0 and masked.

    Returns:
        indices int32 [steps, batch_size] and mask bool [steps, batch_size]; the mask
        is true `num_examples` times, once for each row.

    Example:
        >>> indices, mask = eval_indices(3, 2)
        >>> indices.tolist(), mask.tolist()
        ([[0, 1], [2, 0]], [[True, True], [True, False]])
    """
    steps = num_batches(num_examples, batch_size)
    rows = np.arange(steps * batch_size, dtype=np.int32).reshape(steps, batch_size)
    mask = rows < num_examples
    return np.where(mask, rows, np.int32(0)), mask


def gather(split: Tree, indices: ArrayLike) -> Tree:
    """The rows `indices` of every array of `split`; runs under jit and in scan.

    Args:
        split: a `Split`, or any tree of arrays [N, ...], on the device. Pass it to
            the jitted function as an argument: closed over, it is compiled in.
        indices: integers of any shape, within 0..N-1 (others are clipped).

    Returns:
        The same tree; each array has the shape of `indices` in front.

    Raises:
        ValueError: if `indices` are no integers, or there is nothing to take.

    Example:
        >>> gather({'x': jnp.array([10, 20, 30])}, jnp.array([2, 0]))['x'].tolist()
        [30, 10]
    """
    rows = jnp.asarray(as_numbers("indices", indices))
    if not jnp.issubdtype(rows.dtype, jnp.integer):
        raise ValueError(f"indices have dtype {rows.dtype}; expected integers")

    def take(leaf: ArrayLike) -> jax.Array:
        array = jnp.asarray(as_numbers("an array of split", leaf))
        if array.ndim == 0 or not len(array):
            raise ValueError(
                f"split has an array of shape {array.shape}; expected [N, ...] with "
                "an example at least"
            )
        return jnp.take(array, rows, axis=0, mode="clip")

    return jax.tree.map(take, split)


def to_float(
    inputs: ArrayLike,
    mean: ArrayLike,
    std: ArrayLike,
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """Standardized inputs: (x/255 - mean) / std of images, (x - mean) / std of floats.

    Computed in float32 and cast last. A channel of std 0 is only centred.

    Args:
        inputs: [N, ..., C], uint8 or floating.
        mean: [C], as in `Dataset`.
        std: [C].
        dtype: of the result.

    Raises:
        ValueError: if `inputs` are of another integer type, or `mean` or `std` has
            another number of channels.

    Example:
        >>> to_float(np.array([[0], [255]], np.uint8), [0.5], [0.5]).tolist()
        [[-1.0], [1.0]]
    """
    x = jnp.asarray(as_numbers("inputs", inputs))
    dtype = as_number_dtype("dtype", dtype)
    if not (x.dtype == jnp.uint8 or jnp.issubdtype(x.dtype, jnp.floating)):
        raise ValueError(
            f"inputs have dtype {x.dtype}; expected uint8 (0..255) or a float: "
            "scale them first"
        )
    x = x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x.astype(jnp.float32)
    mean, std = _per_channel("mean", mean, x), _per_channel("std", std, x)
    return ((x - mean) / jnp.where(std > 0, std, 1.0)).astype(dtype)


def _per_channel(name: str, value: ArrayLike, x: jax.Array) -> jax.Array:
    """Numbers [C], or one for all, with the rank of `x`."""
    array = jnp.asarray(as_numbers(name, value))
    if not x.ndim or array.size not in (1, x.shape[-1]) or jnp.iscomplexobj(array):
        raise ValueError(
            f"{name} has shape {array.shape} and dtype {array.dtype}; expected a real "
            f"number for each channel of inputs, whose shape is {x.shape}"
        )
    return array.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))


def augment_crop_flip(
    key: jax.Array, images: jax.Array, *, padding: int = 4, first: int | jax.Array = 0
) -> jax.Array:
    """Each image shifted by up to `padding` pixels and mirrored or not, by chance.

    Zeros move in at the border: black before `to_float`, the mean colour after it. What
    happens to an image depends on the key and its place in the batch only, so that
    devices which share a batch do what one device would.

    Args:
        key: a JAX key.
        images: [N, H, W, C].
        padding: the largest shift, in pixels.
        first: the place of the first image in the batch of all devices.

    Returns:
        [N, H, W, C], the same dtype.

    Raises:
        ValueError: if one of these is something else.

    References:
        He et al., 2015. https://arxiv.org/abs/1512.03385, section 4.2
    """
    images = jnp.asarray(as_numbers("images", images))
    check_count("padding", padding)
    check_key(key)
    first = jnp.asarray(as_numbers("first", first))
    if images.ndim != 4 or first.shape or not jnp.issubdtype(first.dtype, jnp.integer):
        raise ValueError(
            f"images have shape {images.shape} and first is {shown(first)}; expected "
            "[N, H, W, C] and an int"
        )
    num, *size = images.shape
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(num))
    shift_keys, flip_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    margin = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    draw = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * padding + 1))
    corners = draw(shift_keys)
    corners = jnp.pad(corners, ((0, 0), (0, 1)))
    crop = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, at, size))
    cropped = crop(jnp.pad(images, margin), corners)
    flip = jax.vmap(jax.random.bernoulli)(flip_keys)
    return jnp.where(flip[:, None, None, None], cropped[:, :, ::-1], cropped)
