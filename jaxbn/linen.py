"""Flax linen modules: variables in and out of any `Norm`, no arithmetic.

`BatchNorm` has the fields, variables and call of `flax.linen.BatchNorm`, so that
changing the import is the whole migration. `Norm` wraps any pair.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxbn import base
from jaxbn.base import Array, Axes, AxisIndexGroups, AxisName, DType, Initializer
from jaxbn.core import batch_norm, feature_axes, feature_shape


class Norm(nn.Module):
    """Any `jaxbn.Norm` as a module.

    Its parameters live in the collection 'params', its state in 'batch_stats', under
    the names the pair gives them, one pair for each feature of `x`.

    Attributes:
        norm: the pair to apply.
        use_running_average: whether the running statistics normalize; give it here or
            in the call.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxbn import batch_norm
        >>> layer = Norm(batch_norm(momentum=0.9))
        >>> x = jnp.ones((4, 3))
        >>> variables = layer.init(jax.random.key(0), x, use_running_average=False)
        >>> y, updates = layer.apply(
        ...     variables, x, use_running_average=False, mutable=['batch_stats'])
        >>> updates['batch_stats']['mean']
        Array([0.1, 0.1, 0.1], dtype=float32)
    """

    norm: base.Norm
    use_running_average: bool | None = None

    @nn.compact
    def __call__(
        self,
        x: Array,
        use_running_average: bool | None = None,
        *,
        mask: Array | None = None,
    ) -> Array:
        """Returns `x` normalized; updates 'batch_stats' unless they normalize.

        While a model is initialized nothing is updated and nothing crosses devices, so
        that `init` runs outside pmap and on any example.

        Args:
            x: [..., C], what the norm accepts.
            use_running_average: overrides nothing: give it here or as an attribute.
            mask: true where an element counts.

        Returns:
            An array of the shape and dtype of `x`.
        """
        return _call(self, self.norm, x, use_running_average, mask)


class BatchNorm(nn.Module):
    """Batch norm with the interface of `flax.linen.BatchNorm`, and more options.

    It differs in results where Flax's is inexact: the variance keeps its digits at any
    offset, masks are counted exactly and across devices, elements behind a mask come
    out as 0, the output has the dtype of the input (Flax: of the promotion with the
    parameters), and a non-finite batch leaves the running statistics alone.

    Attributes:
        use_running_average: whether the running statistics normalize; give it here or
            in the call.
        axis: the feature axis, or several, in any order.
        momentum: the weight of the old running value; None averages all batches alike
            and adds 'count' to the collection.
        epsilon: added to the variance, inside the root.
        dtype: of the output; None for that of the input.
        param_dtype: of scale and bias.
        use_bias: whether there is a bias (beta).
        use_scale: whether there is a scale (gamma).
        bias_init: initializer of the bias.
        scale_init: initializer of the scale.
        axis_name: the axis of pmap, vmap or shard_map over which devices are pooled.
        axis_index_groups: lists of device indices that are normalized together.
        use_fast_variance: accepted and without effect: there is one algorithm here,
            which reads its input once and is accurate.
        force_float32_reductions: accepted and without effect: always so.
        unbiased: absorb the variance with n/(n-1).
        debias: remove the initial value from the running average; adds 'count'.
        skip_nonfinite: channels with a non-finite batch statistic keep their state.
        custom_derivative: False leaves the derivative to JAX.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> layer = BatchNorm(use_running_average=False)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((4, 3)))
        >>> jax.tree.map(jnp.shape, variables['batch_stats'])
        {'mean': (3,), 'var': (3,)}
    """

    use_running_average: bool | None = None
    axis: Axes = -1
    momentum: float | None = 0.99
    epsilon: float = 1e-5
    dtype: DType | None = None
    param_dtype: DType = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones
    axis_name: AxisName | None = None
    axis_index_groups: AxisIndexGroups | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    unbiased: bool = False
    debias: bool = False
    skip_nonfinite: bool = True
    custom_derivative: bool = True

    @nn.compact
    def __call__(
        self,
        x: Array,
        use_running_average: bool | None = None,
        *,
        mask: Array | None = None,
    ) -> Array:
        """Returns `x` normalized; updates 'batch_stats' unless they normalize.

        Args:
            x: [..., C] floating or complex.
            use_running_average: as the attribute; give one of the two.
            mask: bool or weights, broadcastable to `x` or to `x` without its feature
                axes; masked equals removed.

        Returns:
            An array of the shape of `x`.

        Raises:
            ValueError: on shapes, dtypes or options that do not fit.
        """
        norm = batch_norm(
            axis=self.axis,
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=jnp.result_type(x) if self.dtype is None else self.dtype,
            param_dtype=self.param_dtype,
            use_bias=self.use_bias,
            use_scale=self.use_scale,
            bias_init=self.bias_init,
            scale_init=self.scale_init,
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
            unbiased=self.unbiased,
            debias=self.debias,
            skip_nonfinite=self.skip_nonfinite,
            custom_derivative=self.custom_derivative,
        )
        return _call(self, norm, x, use_running_average, mask)


def _call(
    module: Any,
    norm: base.Norm,
    x: Array,
    use_running_average: bool | None,
    mask: Array | None,
) -> Array:
    """Returns `norm` applied to the variables of `module`, which are created if new."""
    use_running_average = nn.merge_param(
        "use_running_average", module.use_running_average, use_running_average
    )
    x = jnp.asarray(x)
    num_features = feature_shape(x, feature_axes(norm.axis, x.ndim))
    shapes, kept = jax.eval_shape(lambda: norm.init(num_features))
    state = {name: _variable(module, norm, name, num_features) for name in kept}
    params = {name: _param(module, norm, name, num_features) for name in shapes}
    starting = module.is_initializing()
    overrides = {"axis_name": None} if starting else {}
    update = not use_running_average and not starting
    y, new = norm.apply(
        params,
        {name: variable.value for name, variable in state.items()},
        x,
        not use_running_average,
        mask=mask,
        update_stats=update,
        **overrides,
    )
    if update:
        for name, variable in state.items():
            variable.value = new[name]
    return y


def _param(module: Any, norm: base.Norm, name: str, num_features: Any) -> Array:
    return module.param(name, lambda key: norm.init(num_features, key=key)[0][name])


def _variable(module: Any, norm: base.Norm, name: str, num_features: Any) -> Any:
    return module.variable(
        "batch_stats", name, lambda: norm.init(num_features)[1][name]
    )
