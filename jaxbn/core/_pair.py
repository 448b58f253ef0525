"""Batch norm as a pair: `bn_init` and `bn_apply` with their options fixed."""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import get_abstract_mesh

from jaxbn._values import as_dtype
from jaxbn.base import Axes, Norm
from jaxbn.core._arrays import axes_of
from jaxbn.core._batch_norm import bn_apply
from jaxbn.core._checks import check_options
from jaxbn.core._devices import axis_names, is_bound
from jaxbn.core._init import bn_init

_INIT_OPTIONS = (
    "use_scale",
    "use_bias",
    "scale_init",
    "bias_init",
    "param_dtype",
)
_SHARED_OPTIONS = ("momentum", "debias", "dtype")
_FLAGS = ("use_scale", "use_bias", "unbiased", "skip_nonfinite", "custom_derivative")


class Fixed(functools.partial):
    """A function with options fixed; made alike, two are equal.

    A model that holds one is then equal to another made alike, and `jit` takes it for
    the same.
    """

    def __eq__(self, other: object) -> bool:
        """Returns whether function and options are the same."""
        if not isinstance(other, Fixed) or self.func is not other.func:
            return False
        mine, theirs = self.keywords, other.keywords
        return mine.keys() == theirs.keys() and all(
            value is theirs[key] or (_is_plain(value) and value == theirs[key])
            for key, value in mine.items()
        )

    def __hash__(self) -> int:
        """Returns a number that depends on the names of the options only."""
        return hash((self.func, *sorted(self.keywords)))


def batch_norm(*, axis: Axes = -1, **options: Any) -> Norm:
    """Returns batch norm as a pair `Norm(init, apply)` with its options fixed.

    Args:
        axis: the feature axis, or several.
        **options: the keyword options of `bn_init` and of `bn_apply`.

    Returns:
        A `Norm`; `apply` still takes `mask`, `use_running_average`, `update_stats` and
        `axis_name` at each call.

    Raises:
        ValueError: on an option that neither function has, or one out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> norm = batch_norm(momentum=None, use_bias=False)
        >>> params, state = norm.init(1)
        >>> _, state = norm.apply(params, state, jnp.array([[1.0], [3.0]]), True)
        >>> {key: float(value[0]) for key, value in state.items()}
        {'mean': 2.0, 'var': 1.0, 'count': 1.0}
    """
    known = {*_INIT_OPTIONS, *_SHARED_OPTIONS, *(bn_apply.__kwdefaults__ or {})}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(
            f"batch_norm got options {unknown}, expected some of {sorted(known)}; "
            "check the spelling"
        )
    check_options(
        options.get("momentum", 0.99),
        options.get("epsilon", 1e-5),
        options.get("debias", False),
        options.get("axis_name"),
        options.get("axis_index_groups"),
        options.get("normalization_batch_size"),
        **{name: options[name] for name in _FLAGS if name in options},
    )
    if options.get("dtype") is not None:
        as_dtype("dtype", options["dtype"])
    to_init = {
        k: options[k] for k in (*_INIT_OPTIONS, *_SHARED_OPTIONS) if k in options
    }
    to_apply = {k: v for k, v in options.items() if k not in _INIT_OPTIONS}
    return Norm(
        init=Fixed(bn_init, **to_init),
        apply=Fixed(bn_apply, axis=axis, **to_apply),
        axis=axis if isinstance(axis, int) else axes_of(axis),
        epsilon=options.get("epsilon", 1e-5),
    )


def _is_plain(value: object) -> bool:
    """Returns whether a value can be compared; an array gives no yes or no."""
    return not isinstance(value, jax.Array | np.ndarray)


def takes_group_index(norm: Norm, **overrides: Any) -> bool:
    """Returns whether `norm.apply` takes a `group_index` here.

    So does `batch_norm`, with an `adjust` too, unless a size makes the groups or the
    examples of one array lie along the mesh, where the compiler divides the work.
    """
    apply = norm.apply
    if not isinstance(apply, functools.partial) or apply.func is not bn_apply:
        return False
    options = {**apply.keywords, **overrides}
    axis_name, size = options.get("axis_name"), options.get("normalization_batch_size")
    if size is not None or get_abstract_mesh().explicit_axes:
        return False
    return all(map(is_bound, axis_names(axis_name)))
