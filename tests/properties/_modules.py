"""A step of a norm as a linen module and as an nnx module, compiled.

As `compiled` in `_programs`: `step(params, state, x, mask, more) -> y, new, y_eval`.
"""

import functools
from collections.abc import Callable

import jax
from flax import nnx

import jaxbn.linen
import jaxbn.nnx


@functools.cache
def as_linen(row, param_dtype: str) -> Callable:
    """Returns the step of `jaxbn.linen`: of `BatchNorm` where options make it."""
    if row.modules is None:
        layer = jaxbn.linen.Norm(row.make(param_dtype=param_dtype))
    else:
        layer = jaxbn.linen.BatchNorm(**row.modules, param_dtype=param_dtype)

    @jax.jit
    def step(params, state, x, mask, more):
        variables = {"params": params, "batch_stats": state}
        how = {"mask": mask, **more}
        y, new = layer.apply(variables, x, False, **how, mutable=["batch_stats"])
        new = dict(new.get("batch_stats", {}))
        variables = {"params": params, "batch_stats": new}
        return y, new, layer.apply(variables, x, True, **how)

    return step


@functools.cache
def as_nnx(row, param_dtype: str, num_features: tuple[int, ...]) -> Callable:
    """Returns the step of `jaxbn.nnx`."""

    @jax.jit
    def step(params, state, x, mask, more):
        rngs = nnx.Rngs(0)
        if row.modules is None:
            norm = row.make(param_dtype=param_dtype)
            layer = jaxbn.nnx.Norm(num_features, norm, rngs=rngs)
        else:
            options = {**row.modules, "param_dtype": param_dtype}
            layer = jaxbn.nnx.BatchNorm(num_features, **options, rngs=rngs)
        for key, value in {**params, **state}.items():
            getattr(layer, key)[...] = value
        y = layer(x, False, mask=mask, **more)
        new = {key: getattr(layer, key)[...] for key in state}
        return y, new, layer(x, True, mask=mask, **more)

    return step
