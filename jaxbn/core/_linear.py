"""Linear passes: what the derivative of a norm is made of, transposed by hand.

The tangent of a norm's output is linear in the tangents given: two sums over the batch
and one element-wise pass. JAX transposes what is linear; left to itself it would keep
`x - shift`, in float32, from the forward to the backward pass, and read it for two sums
and a pass. Here `x` is kept, and the transpose of the pass is the sums of this file.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad
from jax.sharding import get_abstract_mesh

from jaxbn.base import Array
from jaxbn.core._arrays import expand, real_dot, reduction_axes
from jaxbn.core._devices import vary_alike
from jaxbn.core._mask import conceal, weigh
from jaxbn.core._sums import (
    apart,
    computed_as,
    deviations,
    lowered_on_cpu,
    order_of,
)


@dataclasses.dataclass(frozen=True)
class LinearPass:
    """A function of known arrays that is linear in others and says its transpose.

    Attributes:
        features: axes of `x` that are not summed over.
        dtype: of the array that a pass returns, or that sums are of.
    """

    features: tuple[int, ...]
    dtype: np.dtype

    def __call__(self, known: tuple, linear: tuple) -> tuple[Array, ...]:
        """Returns results linear in the arrays `linear`."""
        raise NotImplementedError

    def on_cpu(self, known: tuple, linear: tuple) -> tuple[Array, ...]:
        """Returns the same, in the form that programs for CPUs have."""
        return self(known, linear)

    def transpose(self, known: tuple, cotangents: tuple) -> tuple[Array, ...]:
        """Returns the cotangents of `linear`."""
        raise NotImplementedError

    def shaped(self, known: tuple, linear: tuple) -> tuple[Any, ...]:
        """Returns the abstract values of the results; by default, of a pass."""
        return (linear[0].update(dtype=self.dtype, weak_type=False),)


class TangentSums(LinearPass):
    """The sums of w dx and w (x - shift) dx over all axes but `features`.

    Known are x, shift and weights (or None); linear in dx.
    """

    def __call__(self, known: tuple, linear: tuple) -> tuple[Array, Array]:
        """Returns both sums."""
        (x, shift, weights), (dx,) = known, linear
        axes = reduction_axes(self.features, dx.ndim)
        near = deviations(x, shift, weights, self.features)
        counted = weigh(conceal(dx.astype(shift.dtype), weights), weights)
        return jnp.sum(counted, axes), jnp.sum(real_dot(near, counted), axes)

    def on_cpu(self, known: tuple, linear: tuple) -> tuple[Array, Array]:
        """Returns both sums, each from a computation of its own."""
        (x, shift, weights), (dx,) = known, linear
        order = order_of(weights, self.features, x.ndim)
        x = order.fill(x, shift, self.features)
        dx = conceal(dx, order.inside)

        def first(dx: Array, inside: Array | None) -> Array:
            return order.begin(weigh(dx.astype(shift.dtype), inside))

        def second(dx: Array, inside: Array | None, x: Array, shift: Array) -> Array:
            near = deviations(x, shift, None, self.features)
            return order.begin(near * weigh(dx.astype(shift.dtype), inside))

        given = dx, order.inside_weights()
        shared = order.is_shared(dx, shift)
        s1 = apart(first, shift, *given) if shared else first(*given)
        return order.finish(s1), order.finish(apart(second, shift, *given, x, shift))

    def transpose(self, known: tuple, cotangents: tuple) -> tuple[Array]:
        """Returns w (a + (x - shift) b)."""
        x, shift, weights = known
        near = deviations(x, shift, weights, self.features)
        a, b = (expand(c, self.features, near.ndim) for c in cotangents)
        dx = weigh(conceal(a + near * b, weights), weights)
        return (dx.astype(self.dtype),)

    def shaped(self, known: tuple, linear: tuple) -> tuple[Any, Any]:
        """Returns the abstract sums."""
        shape = tuple(linear[0].shape[a] for a in self.features)
        total = known[1].update(shape=shape, weak_type=False)
        return total, total


class TangentPass(LinearPass):
    """`gain * dx + offset + (x - shift) * slope`, cast: the tangent of a norm's output.

    Known are x, shift, gain and weights (or None); linear in dx, offset and slope.
    """

    def __call__(self, known: tuple, linear: tuple) -> tuple[Array]:
        """Returns the tangent of `y`, 0 where the weight is 0."""
        x, shift, gain, weights = known
        near = deviations(x, shift, weights, self.features)
        spread = functools.partial(expand, features=self.features, ndim=x.ndim)
        dx, offset, slope = linear
        dy = spread(gain) * dx + spread(offset) + near * spread(slope)
        return (conceal(dy.astype(self.dtype), weights),)

    def transpose(self, known: tuple, cotangents: tuple) -> tuple[Array, Array, Array]:
        """Returns gain * dy, sum(dy) and sum(dy * (x - shift))."""
        (x, shift, gain, weights), (dy,) = known, cotangents
        sums = TangentSums(self.features, dy.dtype)
        return scaled_and_summed(dy, gain, sums, x, shift, weights)


def scaled_and_summed(
    dy: Array,
    gain: Array,
    sums: LinearPass,
    x: Array,
    shift: Array,
    weights: Array | None,
    *index: Array,
) -> tuple[Array, Array, Array]:
    """Returns gain * dy, 0 where the weight is 0, and both `sums` of what is not."""
    dx = conceal(dy, weights).astype(shift.dtype)
    flags = None if weights is None else weights != 0
    s1, s2 = linear_pass(sums, (x, shift, flags, *index), (dy,))
    return expand(gain, sums.features, x.ndim) * dx, s1, s2


def is_transposed_plainly(x: Array) -> bool:
    """Returns whether linear functions of `x` are left to autodiff.

    Where it is complex or typed by the axes of an Explicit mesh.
    """
    return jnp.iscomplexobj(x) or bool(get_abstract_mesh().explicit_axes)


def linear_pass(function: LinearPass, known: tuple, linear: tuple) -> tuple:
    """Returns `function(known, linear)`, with the transpose that it says."""
    arrays, tree = jax.tree.flatten(known)
    arrays = *arrays, *linear
    if any(map(is_transposed_plainly, arrays)):
        return function(known, linear)
    arrays = vary_alike(*arrays)
    return tuple(_linear_primitive().bind(*arrays, function=function, tree=tree))


@functools.cache
def _linear_primitive() -> Primitive:
    """Returns the primitive that evaluates a `LinearPass`, with its rules for JAX."""
    primitive = Primitive("batch_norm_linear")
    primitive.multiple_results = True

    def split(arrays: tuple, tree: Any) -> tuple[tuple, tuple]:
        known = jax.tree.unflatten(tree, arrays[: tree.num_leaves])
        return known, arrays[tree.num_leaves :]

    def evaluate(*arrays: Array, function: LinearPass, tree: Any) -> Any:
        return function(*split(arrays, tree))

    def on_cpu(*arrays: Array, function: LinearPass, tree: Any) -> Any:
        return function.on_cpu(*split(arrays, tree))

    def shaped(*avals: Any, function: LinearPass, tree: Any) -> Any:
        return function.shaped(*split(avals, tree))

    def transpose(cts: Any, *arrays: Any, function: LinearPass, tree: Any) -> Any:
        if all(type(ct) is ad.Zero for ct in cts):
            return [None] * len(arrays)
        known, linear = split(arrays, tree)
        found = function.transpose(known, tuple(map(ad.instantiate_zeros, cts)))
        wanted = map(ad.is_undefined_primal, linear)
        found = [a if w else None for a, w in zip(found, wanted, strict=True)]
        return [*[None] * tree.num_leaves, *found]

    primitive.def_abstract_eval(shaped)
    ad.primitive_transposes[primitive] = transpose
    computed_as(primitive, evaluate)
    lowered_on_cpu(primitive, on_cpu)
    return primitive
