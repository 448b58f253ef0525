"""Flax linen modules: variables in and out of any `Norm`, no arithmetic.

`BatchNorm` has the fields, variables and call of `flax.linen.BatchNorm`, so that
changing the import is the whole migration. `Norm` wraps any pair.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxbn import base
from jaxbn._values import as_array, check_flags
from jaxbn.base import Array, Axes, AxisIndexGroups, AxisName, DType, Initializer
from jaxbn.core import batch_norm, feature_axes, feature_shape
from jaxbn.core._checks import check_norm

__all__ = ["BatchNorm", "Layer", "Norm", "call_norm"]


class Layer(nn.Module):
    """What the modules here share: a `Norm` applied to their variables.

    Parameters live in the collection 'params' and the state in 'batch_stats', under the
    names the norm gives them. A subclass has a field `use_running_average` and says in
    `norm_pair` which norm it is.
    """

    @property
    def norm_pair(self) -> base.Norm:
        """The pair that a call applies."""
        raise NotImplementedError(f"{type(self).__name__} does not define norm_pair")

    @nn.compact
    def __call__(
        self,
        x: Array,
        use_running_average: bool | None = None,
        *,
        mask: Array | None = None,
        **overrides: Any,
    ) -> Array:
        """Returns `x` normalized; updates 'batch_stats' unless they normalize.

        While a model is initialized nothing is updated and nothing crosses devices, so
        that `init` runs outside pmap and on any example.

        Args:
            x: [..., C] floating or complex.
            use_running_average: as the attribute; give one of the two.
            mask: bool or weights, broadcastable to `x` or to `x` without its feature
                axes; masked equals removed.
            **overrides: what else the norm takes in a call: `domain` of `domain_norm`,
                `update_stats`, ...

        Returns:
            An array of the shape of `x`.

        Raises:
            ValueError: on shapes, dtypes or options that do not fit.
        """
        use_running_average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        check_flags(use_running_average=use_running_average)
        x, norm = as_array("x", x), self.norm_pair
        check_norm(norm)
        return call_norm(self, norm, x, use_running_average, mask=mask, **overrides)


def call_norm(
    module: nn.Module,
    norm: base.Norm,
    x: Array,
    use_running_average: bool,
    **overrides: Any,
) -> Array:
    """Returns `x` normalized by `norm`, whose variables are those of `module`.

    To be called within a compact method of it; `Layer` says what happens.
    """
    num_features = feature_shape(x, feature_axes(norm.axis, x.ndim))
    starting = module.is_initializing()
    update = overrides.pop("update_stats", None)
    check_flags(update_stats=update)
    update = (not use_running_average if update is None else update) and not starting
    if starting:
        overrides |= base.NOTHING_SHARED
        overrides |= {"domain": 0} if norm.parts else {}

    # In the order in which Flax's BatchNorm creates them.
    param_shapes, state_shapes = base.variable_shapes(norm, num_features)
    state = {
        name: module.variable(
            "batch_stats", name, lambda name=name: norm.init(num_features)[1][name]
        )
        for name in state_shapes
    }

    def start(key: Array, name: str) -> Array:
        if module.has_variable("params", name):  # Flax asks for the shape only.
            return jnp.zeros(param_shapes[name].shape, param_shapes[name].dtype)
        return norm.init(num_features, key=key)[0][name]

    params = {name: module.param(name, start, name) for name in param_shapes}
    y, new = norm.apply(
        params,
        {name: variable.value for name, variable in state.items()},
        x,
        not use_running_average,
        update_stats=update,
        **overrides,
    )
    if update:
        for name, variable in state.items():
            variable.value = new[name]
    return y


class Norm(Layer):
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

    @property
    def norm_pair(self) -> base.Norm:
        """The field `norm`."""
        return self.norm


class BatchNorm(Layer):
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
        axis_name: the axis of pmap, vmap or shard_map over which devices are pooled, or
            under jit of the mesh in context.
        axis_index_groups: lists of device indices that are normalized together.
        normalization_batch_size: how many examples are, instead of groups; see
            `jaxbn.bn_apply`.
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
    normalization_batch_size: int | None = None
    unbiased: bool = False
    debias: bool = False
    skip_nonfinite: bool = True
    custom_derivative: bool = True

    @property
    def norm_pair(self) -> base.Norm:
        """The pair that the fields describe."""
        return batch_norm(
            axis=self.axis,
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            use_bias=self.use_bias,
            use_scale=self.use_scale,
            bias_init=self.bias_init,
            scale_init=self.scale_init,
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
            normalization_batch_size=self.normalization_batch_size,
            unbiased=self.unbiased,
            debias=self.debias,
            skip_nonfinite=self.skip_nonfinite,
            custom_derivative=self.custom_derivative,
        )
