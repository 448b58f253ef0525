"""Flax nnx modules: variables in and out of any `Norm`, no arithmetic.

`BatchNorm` has the constructor, attributes, variables and call of
`flax.nnx.BatchNorm`, so that changing the import is the whole migration. `Norm` wraps
any pair.
"""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxbn import base
from jaxbn._values import check_flags, shown
from jaxbn.base import Array, Axes, AxisIndexGroups, AxisName, DType, Initializer
from jaxbn.core import batch_norm
from jaxbn.core._checks import check_norm

__all__ = ["BatchNorm", "Norm"]


class Norm(nnx.Module):
    """Any `jaxbn.Norm` as a module.

    Parameters are `nnx.Param` attributes and the state `nnx.BatchStat` attributes,
    under the names the pair gives them.

    Args:
        num_features: C, or a tuple where the norm has several feature axes.
        norm: the pair to apply.
        use_running_average: whether the running statistics normalize; False by default
            as in `flax.nnx.BatchNorm`, switched by `eval()`, `train()`, `nnx.view`.
        rngs: its stream `params` seeds the initializers.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxbn import batch_norm
        >>> layer = Norm(3, batch_norm(momentum=0.9), rngs=nnx.Rngs(0))
        >>> y = layer(jnp.ones((4, 3)))
        >>> layer.mean[...]
        Array([0.1, 0.1, 0.1], dtype=float32)
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        norm: base.Norm,
        *,
        use_running_average: bool | None = False,
        rngs: nnx.Rngs,
    ):
        check_norm(norm)
        self.num_features = num_features
        self.norm = norm
        self.use_running_average = use_running_average
        self.param_names, self.state_names = _create(self, norm, rngs, {})

    @property
    def norm_pair(self) -> base.Norm:
        """The pair that a call applies.

        A property, because nnx traces the methods of a module, and a pair is nothing
        that a traced function can return.
        """
        return self.norm

    def __call__(
        self,
        x: Array,
        use_running_average: bool | None = None,
        *,
        mask: Array | None = None,
        **overrides: Any,
    ) -> Array:
        """Returns `x` normalized; moves the running statistics unless they normalize.

        Args:
            x: [..., C] floating or complex.
            use_running_average: overrides the attribute.
            mask: bool or weights, broadcastable to `x` or to `x` without its feature
                axes; masked equals removed.
            **overrides: what else the norm takes in a call: `domain` of `domain_norm`,
                `update_stats`, ...

        Returns:
            An array of the shape of `x`.

        Raises:
            ValueError: on shapes, dtypes or options that do not fit.
        """
        if use_running_average is None:
            use_running_average = self.use_running_average
        if use_running_average is None:
            raise ValueError(
                "use_running_average is None, expected True or False; pass it to the "
                "constructor or to the call, or set it by nnx.view(model, "
                "use_running_average=...), model.train() or model.eval()"
            )
        check_flags(use_running_average=use_running_average)
        held = {name: getattr(self, name) for name in self.param_names}
        params = {name: v[...] for name, v in held.items() if v is not None}
        state = {name: getattr(self, name)[...] for name in self.state_names}
        update = overrides.pop("update_stats", None)
        check_flags(update_stats=update)
        update = not use_running_average if update is None else update
        overrides |= {"mask": mask, "update_stats": update}
        y, new = self.norm_pair.apply(
            params, state, x, not use_running_average, **overrides
        )
        if update:
            for name in self.state_names:
                getattr(self, name)[...] = jax.lax.stop_gradient(new[name])
        return y

    def set_view(self, use_running_average: bool | None = None):
        """Sets what `nnx.view` asks for.

        Args:
          use_running_average: whether the running statistics normalize.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average


class BatchNorm(Norm):
    """Batch norm with the interface of `flax.nnx.BatchNorm`, and more options.

    Where the results differ from Flax's is listed at `jaxbn.linen.BatchNorm`, to which
    it is equal bit for bit. Gradients do not flow through the running statistics.

    Args:
        num_features: C, or a tuple where there are several feature axes.
        use_running_average: whether the running statistics normalize; switched by
            `eval()`, `train()`, `nnx.view`.
        axis: the feature axis, or several, in any order.
        momentum: the weight of the old running value; None averages all batches alike
            and adds `count`.
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
        promote_dtype: accepted and without effect: running statistics are never rounded
            to the dtype of the computation.
        unbiased: absorb the variance with n/(n-1).
        debias: remove the initial value from the running average; adds `count`.
        skip_nonfinite: channels with a non-finite batch statistic keep their state.
        custom_derivative: False leaves the derivative to JAX.
        rngs: its stream `params` seeds the initializers, one key a parameter.
        bias_metadata: metadata of the bias variable.
        scale_metadata: metadata of the scale variable.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = BatchNorm(2, momentum=0.9, rngs=nnx.Rngs(0))
        >>> y = layer(jnp.array([[1.0, 2.0], [3.0, 6.0]]))
        >>> layer.mean[...]
        Array([0.2, 0.4], dtype=float32)
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        use_running_average: bool | None = False,
        axis: Axes = -1,
        momentum: float | None = 0.99,
        epsilon: float = 1e-5,
        dtype: DType | None = None,
        param_dtype: DType = jnp.float32,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: Initializer = jax.nn.initializers.zeros,
        scale_init: Initializer = jax.nn.initializers.ones,
        axis_name: AxisName | None = None,
        axis_index_groups: AxisIndexGroups | None = None,
        normalization_batch_size: int | None = None,
        use_fast_variance: bool = True,
        promote_dtype: Any = None,
        unbiased: bool = False,
        debias: bool = False,
        skip_nonfinite: bool = True,
        custom_derivative: bool = True,
        rngs: nnx.Rngs,
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
        scale_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.num_features = num_features
        self.use_running_average = use_running_average
        self.axis = axis
        self.momentum = momentum
        self.epsilon = epsilon
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.use_bias = use_bias
        self.use_scale = use_scale
        self.axis_name = axis_name
        self.axis_index_groups = axis_index_groups
        self.normalization_batch_size = normalization_batch_size
        self.use_fast_variance = use_fast_variance
        self.promote_dtype = promote_dtype
        self.unbiased = unbiased
        self.debias = debias
        self.skip_nonfinite = skip_nonfinite
        self.custom_derivative = custom_derivative
        metadata = {"scale": scale_metadata, "bias": bias_metadata}
        # Initializers are not kept: two of them made alike are not equal, and nnx.jit
        # would trace anew for each layer.
        norm = self.norm_pair
        start: Any = norm.init
        start = functools.partial(start, scale_init=scale_init, bias_init=bias_init)
        norm = norm._replace(init=start)
        names = _create(self, norm, rngs, metadata)
        self.param_names, self.state_names = names

    @property
    def norm_pair(self) -> base.Norm:
        """The pair that the attributes describe now."""
        return batch_norm(
            axis=self.axis,
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            use_bias=self.use_bias,
            use_scale=self.use_scale,
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
            normalization_batch_size=self.normalization_batch_size,
            unbiased=self.unbiased,
            debias=self.debias,
            skip_nonfinite=self.skip_nonfinite,
            custom_derivative=self.custom_derivative,
        )


def _create(
    module: Any, norm: base.Norm, rngs: nnx.Rngs, metadata: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Gives `module` the variables of `norm`; returns their names, params and state."""
    for name, given in metadata.items():
        if not isinstance(given, Mapping):
            raise ValueError(
                f"{name}_metadata is {shown(given)}, expected a dict of what the "
                "variable is to say of itself"
            )
    params, state = map(tuple, base.variable_shapes(norm, module.num_features))
    if params and not callable(getattr(rngs, "params", None)):
        raise ValueError(
            f"rngs is {shown(rngs)}, expected a stream for 'params'; pass nnx.Rngs(0)"
        )
    for name in state:
        value = norm.init(module.num_features)[1][name]
        setattr(module, name, nnx.BatchStat(value))
    for name in ("scale", "bias"):
        if name not in params and name not in state:
            setattr(module, name, nnx.data(None))
    for name in params:
        value = norm.init(module.num_features, key=rngs.params())[0][name]
        setattr(module, name, nnx.Param(value, **metadata.get(name, {})))
    return params, state
