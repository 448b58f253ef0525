"""How sums over examples are taken, and what compilers need to be told about them.

CPUs. XLA hands each sum to a library that takes in what is computed for it element by
element only if nothing else reads that. A float32 copy of a bfloat16 `x`, or `x -
shift`, that two sums or a sum and a pass share is stored for them. `apart` gives a sum
a computation of its own, a branch whose condition XLA cannot decide. Measured on
[65536, 64] forward and backward, in arrays of the size of `x`, jax 0.12.0.1: float32 12
to 10 accessed; bfloat16 21 to 10 accessed and 4 to 0 stored (jax 0.10.2: 24 to 13).
GPUs compute what is shared again: there the form is the plain one.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jax.sharding import get_abstract_mesh

from jaxbn.base import Array
from jaxbn.core._arrays import (
    expand,
    real_dot,
    reduction_axes,
)
from jaxbn.core._devices import match_varying, vary_alike
from jaxbn.core._mask import conceal, fill, weigh


def deviation_sums(
    x: Array, shift: Array, weights: Array | None, features: tuple[int, ...]
) -> tuple[Array, Array, Array]:
    """Returns sums over all axes but `features` of w (x - shift) and w |x - shift|^2.

    In between comes the shift, to be used from here on: on CPUs it is a result of the
    second sum's computation, so that no pass computes the median anew for every element
    or shares `x - shift` with the first.
    """
    order = order_of(weights, features, x.ndim)
    x = order.fill(x, shift, features)

    def first(x: Array, shift: Array, inside: Array | None) -> Array:
        near = deviations(x, shift, None, features)
        return order.begin(weigh(near, inside))

    def second(x: Array, shift: Array, inside: Array | None) -> tuple[Array, Array]:
        near = deviations(x, shift, None, features)
        return order.begin(real_dot(near, weigh(near, inside))), shift

    given = x, shift, order.inside_weights()
    shared = order.is_shared(x, shift)
    s1 = apart(first, shift, *given) if shared else first(*given)
    s2, shift = apart(second, shift, *given)
    return order.finish(s1), shift, order.finish(s2)


class Order(NamedTuple):
    """The order in which a sum with weights is taken.

    Where all elements of an example weigh the same it is summed as it is, and its sum
    weighed, or left out: in a sum with a selection in it XLA's CPU library takes in
    nothing ([64, 32, 32, 64], each example masked or not: 19 arrays accessed to 13).
    Several axes behind one that stays are summed one after the other, outside of the
    branch, where XLA would join them again (there 4.3 ms at once, 2.0 so).

    Attributes:
        axes: summed over.
        first: those of them that are summed over first.
        then: those that come next, before the weights are applied.
        weights: of what is summed by then, or None.
        inside: weights that vary along every axis and come before all sums, or None.
    """

    axes: tuple[int, ...]
    first: tuple[int, ...]
    then: tuple[int, ...]
    weights: Array | None
    inside: Array | None

    def inside_weights(self) -> Array | None:
        """Returns the weights that elements are multiplied by before all sums."""
        known = self.inside is None or self.inside.dtype == bool
        return None if known else self.inside

    def fill(self, x: Array, shift: Array, features: tuple[int, ...]) -> Array:
        """Returns `x` with its shift where weights that come before all sums are 0."""
        return fill(x, self.inside, expand(shift.astype(x.dtype), features, x.ndim))

    def is_shared(self, x: Array, shift: Array) -> bool:
        """Returns whether what a sum of `x` takes in is made for other sums as well."""
        cast, filled = x.dtype != shift.dtype, self.inside is not None
        return cast or filled or bool(self.then)

    def begin(self, values: Array) -> Array:
        """Returns the first sums."""
        return jnp.sum(values, self.first)

    def finish(self, sums: Array) -> Array:
        """Returns what is left to sum; of weight 0, whatever it is, nothing."""
        if self.then:
            sums = jnp.sum(sums, self.then)
        if self.weights is None:
            return sums
        sums = jnp.expand_dims(sums, self.first + self.then)
        return jnp.sum(weigh(conceal(sums, self.weights), self.weights), self.axes)


def order_of(weights: Array | None, features: tuple[int, ...], ndim: int) -> Order:
    """Returns the order for weights of the rank `ndim`, or None."""
    axes, inside = reduction_axes(features, ndim), None
    alike = axes
    if weights is not None:
        alike = tuple(a for a in axes if weights.shape[a] == 1)
        if not alike:
            alike, weights, inside = axes, None, weights
    split = len(alike) - 1 if len(alike) > 1 and 0 not in alike else 0
    return Order(axes, alike[split:], alike[:split], weights, inside)


def deviations(
    x: Array, shift: Array, weights: Array | None, features: tuple[int, ...]
) -> Array:
    """Returns `x - shift` in the dtype of `shift`, 0 where the weight is 0."""
    wide = expand(shift, features, x.ndim)
    return fill(x, weights, wide.astype(x.dtype)).astype(wide.dtype) - wide


def apart(function: Callable[..., Any], shift: Array, *arrays: Array | None) -> Any:
    """Returns `function(*arrays)`, on CPUs from a computation of its own.

    Where arrays lie on a mesh and the compiler divides the work, it stays plain.
    """
    mesh = get_abstract_mesh()
    if set(mesh.axis_names) - set(mesh.manual_axes) or shift.size == 0:
        return function(*arrays)
    leaves, tree = jax.tree.flatten(arrays)
    leaves = vary_alike(*leaves)
    trace = jax.make_jaxpr(function, return_shape=True)
    jaxpr, shapes = trace(*jax.tree.unflatten(tree, leaves))
    results = _apart_primitive().bind(shift, *leaves, jaxpr=jaxpr)
    return jax.tree.unflatten(jax.tree.structure(shapes), results)


@functools.cache
def _apart_primitive() -> Primitive:
    """Returns the primitive that evaluates a jaxpr, on CPUs in a branch.

    The other branch is never taken, which XLA cannot know: no number is NaN and zero.
    Under `vmap` and to derivatives it is what the jaxpr says.
    """
    primitive = Primitive("batch_norm_sum")
    primitive.multiple_results = True

    def plain(_: Array, *arrays: Array, jaxpr: ClosedJaxpr) -> list[Array]:
        return jaxpr_as_fun(jaxpr)(*arrays)

    def conditional(shift: Array, *arrays: Array, jaxpr: ClosedJaxpr) -> list[Array]:
        one = jnp.real(shift[(0,) * shift.ndim])
        never = jnp.isnan(one) & (one == 0)

        def other(*_: Array) -> list[Array]:
            # Of `one`: with branches that take nothing XLA does not merge two alike.
            some = [jnp.full(a.shape, one, a.dtype) for a in jaxpr.out_avals]
            return [match_varying(a, arrays[0]) for a in some]

        def taken(*arrays: Array) -> list[Array]:
            return [match_varying(a, arrays[0]) for a in jaxpr_as_fun(jaxpr)(*arrays)]

        return lax.cond(never, other, taken, *arrays)

    primitive.def_abstract_eval(lambda *_, jaxpr: jaxpr.out_avals)
    computed_as(primitive, plain)
    lowered_on_cpu(primitive, conditional)
    return primitive


def computed_as(primitive: Primitive, function: Callable[..., Any]) -> None:
    """Gives `primitive` the value, the derivative and the batches of `function`."""

    def push_forward(primals: Any, tangents: Any, **fixed: Any) -> Any:
        moving = [i for i, t in enumerate(tangents) if type(t) is not ad.Zero]

        def of_moving(*some: Array) -> Array:
            arrays = list(primals)
            for i, value in zip(moving, some, strict=True):
                arrays[i] = value
            return function(*arrays, **fixed)

        some = tuple(primals[i] for i in moving)
        return jax.jvp(of_moving, some, tuple(tangents[i] for i in moving))

    def batch(arrays: Any, axes: Any, **fixed: Any) -> Any:
        results = jax.vmap(functools.partial(function, **fixed), axes)(*arrays)
        return results, jax.tree.map(lambda _: 0, results)

    primitive.def_impl(function)
    ad.primitive_jvps[primitive] = push_forward
    batching.primitive_batchers[primitive] = batch
    lowering = mlir.lower_fun(function, multiple_results=True)
    mlir.register_lowering(primitive, lowering)


def lowered_on_cpu(primitive: Primitive, function: Callable[..., Any]) -> None:
    """Gives `primitive` another form in programs for CPUs."""
    lowering = mlir.lower_fun(function, multiple_results=True)
    mlir.register_lowering(primitive, lowering, platform="cpu")
