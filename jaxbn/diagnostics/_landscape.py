"""The landscape: loss and gradient along the step that an optimizer is about to take.

How far the loss and the gradient at one point predict those a step away is what
Santurkar et al. found batch norm to improve, though it does not reduce covariate shift.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbn._values import (
    as_numpy,
    check_function,
    has_numbers,
    shown,
)
from jaxbn.base import Array


class Landscape(NamedTuple):
    """What lies along a gradient step; g(s) is the gradient after a step of length s.

    Attributes:
        steps: [K] the lengths, in units of the gradient (learning rates).
        losses: [K] at `params - s g(0)`.
        distances: [K] `|g(s) - g(0)|`, gradient predictiveness.
        smoothness: [K] `|g(s) - g(0)| / |s g(0)|`, how steep the gradient changes; the
            largest is the effective beta-smoothness. 0 where s or g(0) is.
        loss: at the start.
        gradient_norm: `|g(0)|`.
    """

    steps: np.ndarray
    losses: np.ndarray
    distances: np.ndarray
    smoothness: np.ndarray
    loss: float
    gradient_norm: float

    @property
    def beta(self) -> float:
        """The effective beta-smoothness."""
        return float(self.smoothness.max(initial=0))


def probe_landscape(
    loss: Callable[[Any], Array], params: Any, steps: Sequence[float]
) -> Landscape:
    """Returns the loss and the gradient at points along the negative gradient.

    Products are in full precision (`jax.default_matmul_precision('highest')`): what is
    compared are gradients a short step apart, of which TF32 would leave little.

    Args:
        loss: `loss(params) -> scalar`, with everything else fixed: the batch, the
            statistics. A batch norm in training normalizes by the batch at each point.
        params: where to stand.
        steps: lengths, such as 0.5 to 4 times the learning rate (Santurkar et al.).

    Returns:
        A `Landscape`, of NumPy arrays.

    Raises:
        ValueError: if there are no steps, `loss` is not a scalar, or `params` are not
            all real and floating.

    Example:
        >>> import jax.numpy as jnp
        >>> found = probe_landscape(lambda w: 3 * w**2, jnp.float32(1.0), [0.1, 0.5])
        >>> found.losses.round(2), found.beta  # the curvature of 3 w^2 is 6
        (array([ 0.48, 12.  ], dtype=float32), 6.0)

    References:
        Santurkar et al., How does batch normalization help optimization?, 2018,
        section 3. https://arxiv.org/abs/1805.11604
    """
    check_function("loss", loss, "(params) -> scalar")
    lengths = jnp.asarray(as_numpy("steps", steps))
    if jnp.iscomplexobj(lengths):
        raise ValueError("steps are complex, expected real lengths; pass their size")
    lengths = lengths.astype(jnp.float32)
    for leaf in jax.tree.leaves(params):
        if not has_numbers(leaf) and not isinstance(leaf, float):
            raise ValueError(
                f"params has {shown(leaf)}, expected floating arrays; keep what is "
                "not trained within loss"
            )
    if lengths.ndim != 1 or not lengths.size:
        raise ValueError(
            f"steps has shape {lengths.shape}, expected a list of lengths; pass for "
            "example multiples of the learning rate"
        )
    found = jax.eval_shape(loss, params)
    if jax.tree.leaves(found) != [found] or found.shape:
        shapes = jax.tree.map(lambda a: a.shape, found)
        raise ValueError(
            f"loss returns {shapes} by shape, expected a scalar; take its mean, and "
            "leave out what else it returns"
        )
    kinds = {str(jnp.result_type(leaf)) for leaf in jax.tree.leaves(params)}
    if not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise ValueError(
            f"params have dtypes {sorted(kinds)}, expected floating ones; keep what is "
            "not trained within loss"
        )
    with jax.default_matmul_precision("highest"):
        losses, distances, start, size = jax.jit(_along, static_argnums=0)(
            loss, params, lengths
        )
    moved = np.abs(np.asarray(lengths)) * float(size)
    smoothness = np.divide(distances, moved, out=np.zeros_like(moved), where=moved > 0)
    arrays = np.asarray(lengths), np.asarray(losses), np.asarray(distances)
    return Landscape(*arrays, smoothness, float(start), float(size))


def _along(
    loss: Callable[[Any], Array], params: Any, lengths: Array
) -> tuple[Array, Array, Array, Array]:
    value, slope = jax.value_and_grad(loss)(params)

    def look(length: Array) -> tuple[Array, Array]:
        there = jax.tree.map(lambda p, g: p - length.astype(p.dtype) * g, params, slope)
        value, new = jax.value_and_grad(loss)(there)
        return value, norm(jax.tree.map(jnp.subtract, new, slope))

    return *lax.map(look, lengths), value, norm(slope)


def norm(tree: Any) -> Array:
    """Returns the length of a tree of arrays as one vector."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))
