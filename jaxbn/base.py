"""What a normalization is here: two pure functions and the promise they keep.

Read this file first; it holds no arithmetic. A `Norm` is a pair

    params, state = norm.init(num_features)
    y, state = norm.apply(params, state, x, train, mask=None)

of which `batch_norm(...)` is the plain one. Everything above the core (Flax
wrappers, models, training, experiments) accepts any `Norm`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
from jax.typing import ArrayLike, DTypeLike

Array: TypeAlias = jax.Array
Axes: TypeAlias = int | Sequence[int]
AxisName: TypeAlias = str | Sequence[str]
AxisIndexGroups: TypeAlias = Sequence[Sequence[int]]
DType: TypeAlias = DTypeLike
Initializer: TypeAlias = Callable[..., Array]
"""`(key, shape, dtype) -> Array`, as in `jax.nn.initializers`."""
Params: TypeAlias = dict[str, Array]
"""Trained by the optimizer: `{'scale': [C], 'bias': [C]}`, each only if used."""
State: TypeAlias = dict[str, Array]
"""Carried by the norm: `{'mean': [C], 'var': [C]}`; a variant may add keys."""


class InitFn(Protocol):
    """`init(num_features, *, key=None) -> (params, state)`.

    `num_features` is an int C, or a tuple of ints where the norm has several
    feature axes. `key` seeds random initializers and may be left out where none
    is random. The structure, shapes and dtypes of `state` are fixed here and
    never change afterwards, so that it can be carried through `lax.scan`.
    """

    def __call__(
        self, num_features: int | Sequence[int], *, key: Array | None = None
    ) -> tuple[Params, State]:
        """See the class."""
        ...


class ApplyFn(Protocol):
    """`apply(params, state, x, train, *, mask=None, ...) -> (y, new_state)`.

    Pure. `y` has the shape and dtype of `x`. `train` is a Python bool. In
    evaluation the state returned is the state given, the same object.

    `mask` is true (or a positive weight) where an element counts; what lies
    behind it has no influence on anything returned and no gradient.

    Five more keywords override, for one call, what the factory fixed; a norm to which
    one means nothing takes it and does nothing:

    `use_running_average`: which statistics normalize (default `not train`).
    `update_stats`: whether the running statistics absorb the batch (default `train`).
    `axis_name`, `axis_index_groups`, `normalization_batch_size`: all None
    (`NOTHING_SHARED`) for the array at hand and nothing else, which a model's
    initialization needs, outside any pmap and on a batch of any size.
    """

    def __call__(
        self,
        params: Params,
        state: State,
        x: ArrayLike,
        train: bool,
        *,
        mask: ArrayLike | None = None,
        **overrides: object,
    ) -> tuple[Array, State]:
        """See the class."""
        ...


class PartsFn(Protocol):
    """`parts(x, train, *, mask=None, ...) -> [D, ...]`, weights that broadcast to `x`.

    Of a norm whose 'mean' is [D, C], one row for each of D parts of the data: what
    counts for each row, in a call of `apply` with the same arguments.
    """

    def __call__(
        self,
        x: Array,
        train: bool,
        *,
        mask: ArrayLike | None = None,
        **overrides: Any,
    ) -> Array:
        """See the class."""
        ...


NOTHING_SHARED = {
    "axis_name": None,
    "axis_index_groups": None,
    "normalization_batch_size": None,
}
"""Overrides of `ApplyFn` for statistics of the array at hand."""


class Norm(NamedTuple):
    """A normalization as a value: how to start it, how to apply it, what it spans.

    Attributes:
        init: `init(num_features, *, key=None) -> (params, state)`; see `InitFn`.
        apply: `apply(params, state, x, train, *, mask=None) -> (y, state)`; see
            `ApplyFn`.
        axis: the axis (or axes) of `x` that hold features; `num_features` is the
            shape of `x` along them, in ascending order of axis.
        parts: which examples each row of the statistics is of, where there are several,
            as in `domain_norm`; see `PartsFn`. For what measures them from outside.
        epsilon: of a norm that evaluates as batch norm, `(x - mean) * scale /
            sqrt(var + epsilon) + bias` with what is in its state and params; else None.
        moves: whether training moves its statistics; False for `frozen_norm`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxbn import batch_norm
        >>> norm = batch_norm(momentum=0.9)
        >>> params, state = norm.init(3)
        >>> y, state = norm.apply(params, state, jnp.ones((4, 3)), True)
        >>> state['mean']
        Array([0.1, 0.1, 0.1], dtype=float32)
    """

    init: InitFn
    apply: ApplyFn
    axis: int | tuple[int, ...] = -1
    parts: PartsFn | None = None
    epsilon: float | None = None
    moves: bool = True


def variable_shapes(
    norm: Norm, num_features: int | Sequence[int]
) -> tuple[dict[str, jax.ShapeDtypeStruct], dict[str, jax.ShapeDtypeStruct]]:
    """Returns shapes and dtypes of `params` and of `state`, in the order made.

    Nothing is computed. The order decides which random key an initializer gets. One of
    Flax's `with_partitioning` returns a box, whose array is meant.
    """
    shapes = []

    def note() -> None:
        for tree in norm.init(num_features):
            arrays = {key: unboxed(value) for key, value in tree.items()}
            shapes.append(
                {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in arrays.items()}
            )

    jax.eval_shape(note)
    params, state = shapes
    return params, state


def unboxed(value: Any) -> Array:
    """Returns the array of a value that Flax has boxed with its partitioning."""
    (array,) = jax.tree.leaves(getattr(value, "raw_value", value))
    return array
