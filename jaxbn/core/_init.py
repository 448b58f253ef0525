"""The start: parameters and running statistics of a batch norm."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxbn._values import as_dtype, check_flags, check_function, check_key
from jaxbn.base import Array, DType, Initializer, Params, State
from jaxbn.core._arrays import check_bits, real_dtype, stats_dtype
from jaxbn.core._checks import check_features, check_options
from jaxbn.core._running import needs_count

OF_INITIALIZERS = "(key, shape, dtype), such as those of jax.nn.initializers"
"""What a function that starts a parameter takes."""


def bn_init(
    num_features: int | Sequence[int],
    *,
    use_scale: bool = True,
    use_bias: bool = True,
    scale_init: Initializer = jax.nn.initializers.ones,
    bias_init: Initializer = jax.nn.initializers.zeros,
    param_dtype: DType = jnp.float32,
    momentum: float | Array | None = 0.99,
    debias: bool = False,
    dtype: DType | None = None,
    key: Array | None = None,
) -> tuple[Params, State]:
    """Returns the parameters and running statistics of a batch norm.

    Args:
        num_features: C, or a tuple where there are several feature axes.
        use_scale: whether there is a `scale` (gamma).
        use_bias: whether there is a `bias` (beta).
        scale_init: `(key, shape, dtype) -> Array`, ones by default. (Old PyTorch drew
            it uniformly from [0, 1], which some tutorials still do; it slows training.)
        bias_init: likewise, zeros by default.
        param_dtype: of scale and bias. The statistics are in at least float32.
        momentum: as for `bn_apply`; None adds a 'count' to the state.
        debias: as for `bn_apply`; True adds a 'count' to the state.
        dtype: of the data, where it is complex: the mean is then complex too, while the
            variance is real. A complex `param_dtype` says the same.
        key: for random initializers; a fixed one where it is None.

    Returns:
        `{'scale': [C], 'bias': [C]}` and `{'mean': [C] zeros, 'var': [C] ones}`, with
        'count' [C] float32 zeros if the average needs it.

    Raises:
        ValueError: on a `num_features` that is not positive, or a `param_dtype` that is
            not floating or complex.

    Example:
        >>> params, state = bn_init(2, use_bias=False)
        >>> params
        {'scale': Array([1., 1.], dtype=float32)}
        >>> state
        {'mean': Array([0., 0.], dtype=float32), 'var': Array([1., 1.], dtype=float32)}
    """
    shape = check_features(num_features)
    param_dtype = as_dtype("param_dtype", param_dtype, "float32")
    check_bits("param_dtype", param_dtype)
    check_options(momentum, 0.0, debias)
    check_flags(use_scale=use_scale, use_bias=use_bias)
    key = jax.random.key(0) if key is None else key
    check_key(key)
    params = {}
    if use_scale:
        check_function("scale_init", scale_init, OF_INITIALIZERS)
        params["scale"] = scale_init(key, shape, param_dtype)
    if use_bias:
        check_function("bias_init", bias_init, OF_INITIALIZERS)
        params["bias"] = bias_init(jax.random.fold_in(key, 1), shape, param_dtype)
    mean_dtype = stats_dtype(param_dtype)
    if dtype is not None:
        dtype = as_dtype("dtype", dtype, "that of the parameters")
        if jnp.issubdtype(dtype, jnp.complexfloating):
            mean_dtype = jnp.promote_types(mean_dtype, dtype)
    state = {
        "mean": jnp.zeros(shape, mean_dtype),
        "var": jnp.ones(shape, real_dtype(param_dtype)),
    }
    if needs_count(momentum, debias):
        state["count"] = jnp.zeros(shape, jnp.float32)
    return params, state
