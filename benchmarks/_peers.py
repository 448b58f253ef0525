"""Peers: a batch norm in training mode by each library, as `norm(x, scale, bias)`.

Those that are not installed are left out; `missing` names them.
"""

import importlib
import importlib.util
import math
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxbn

Norm = Callable[[Any, Any, Any], Any]
PEERS = ("haiku", "equinox", "keras", "torch")
BEFORE = "jaxbn, before"


def installed(name: str) -> bool:
    """Returns whether the library called `name` can be imported."""
    return importlib.util.find_spec(name) is not None


def missing() -> list[str]:
    """Returns the peers that are not installed."""
    return [name for name in PEERS if not installed(name)]


def builds(baseline: str = "") -> dict[str, Any]:
    """Returns this build of jaxbn and, from a folder with `jaxbn_old`, an earlier one.

    `baseline` is that folder; the package in it is another jaxbn under this name.
    """
    found: dict[str, Any] = {"jaxbn": jaxbn}
    if baseline:
        if baseline not in sys.path:
            sys.path.insert(0, baseline)
        found[BEFORE] = importlib.import_module("jaxbn_old")
    return found


def norms(baseline: str = "") -> dict[str, Norm]:
    """Returns the norms that JAX compiles, by name; the first is the yardstick."""
    found = {
        "bare passes": bare,
        **{name: of_build(build) for name, build in builds(baseline).items()},
        "flax": of_flax(fast=True),
        "flax, exact": of_flax(fast=False),
    }
    made = {"haiku": of_haiku, "equinox": of_equinox, "keras": of_keras}
    return found | {name: make() for name, make in made.items() if installed(name)}


@jax.custom_vjp
def bare(x, scale, bias):
    """The passes that XLA makes for any batch norm, without care for digits.

    The sums of x and of its squares, one pass to normalize, the sums of the slope and
    of its product with x, one pass for the result. They cancel at an offset.
    """
    return _forward(x, scale, bias)[0]


def _forward(x, scale, bias):
    axes, n = tuple(range(x.ndim - 1)), math.prod(x.shape[:-1])
    wide = x.astype(jnp.float32)
    mean, square = jnp.sum(wide, axes) / n, jnp.sum(wide * wide, axes) / n
    inverse = lax.rsqrt(square - mean * mean + 1e-5)
    y = (wide - mean) * (inverse * scale) + bias
    return y.astype(x.dtype), (x, mean, inverse, scale)


def _backward(saved, dy):
    x, mean, inverse, scale = saved
    axes, n = tuple(range(x.ndim - 1)), math.prod(x.shape[:-1])
    wide, slope = x.astype(jnp.float32), dy.astype(jnp.float32)
    s1, s2 = jnp.sum(slope, axes), jnp.sum(slope * wide, axes)
    s2 = (s2 - mean * s1) * inverse
    dx = (slope - s1 / n - (wide - mean) * (inverse * s2 / n)) * (scale * inverse)
    return dx.astype(x.dtype), s2, s1


bare.defvjp(_forward, _backward)


def of_build(build: Any) -> Callable[..., Any]:
    def norm(x, scale, bias, **options):
        params, state = {"scale": scale, "bias": bias}, build.bn_init(x.shape[-1])[1]
        return build.bn_apply(params, state, x, True, **options)[0]

    return norm


ours = of_build(jaxbn)


def of_flax(fast: bool) -> Norm:
    from flax import linen as nn

    def norm(x, scale, bias, mask=None):
        layer = nn.BatchNorm(False, use_fast_variance=fast, dtype=x.dtype)
        stats = {"mean": jnp.zeros(x.shape[-1]), "var": jnp.ones(x.shape[-1])}
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
        return layer.apply(variables, x, mask=mask, mutable=["batch_stats"])[0]

    return norm


def of_haiku() -> Norm:
    import haiku as hk

    layer = hk.transform_with_state(lambda x: hk.BatchNorm(True, True, 0.9)(x, True))

    def norm(x, scale, bias):
        _, state = jax.eval_shape(layer.init, jax.random.key(0), x)
        state = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), state)
        shape = (1,) * (x.ndim - 1) + scale.shape
        affine = {"scale": scale.reshape(shape), "offset": bias.reshape(shape)}
        y, _ = layer.apply({"batch_norm": affine}, state, None, x)
        return y.astype(x.dtype)

    return norm


def of_equinox() -> Norm:
    """Channels first and one example at a time, as it wants them.

    `x` is taken for [N, C, ...] instead of transposed: other numbers, the same time.
    """
    import equinox as eqx

    def norm(x, scale, bias):
        channels = x.shape[-1]
        make = eqx.nn.make_with_state(eqx.nn.BatchNorm)
        layer, state = make(channels, "batch", mode="batch")
        layer = eqx.tree_at(lambda a: (a.weight, a.bias), layer, (scale, bias))
        x = x.reshape(x.shape[0], channels, *x.shape[1:-1])
        y, _ = jax.vmap(layer, (0, None), (0, None), axis_name="batch")(x, state)
        return y.reshape(x.shape[0], *x.shape[2:], channels).astype(x.dtype)

    return norm


def of_keras() -> Norm:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    def norm(x, scale, bias):
        half = x.dtype == jnp.bfloat16
        dtype = "mixed_bfloat16" if half else str(x.dtype)
        layer = keras.layers.BatchNormalization(epsilon=1e-5, dtype=dtype)
        layer.build(x.shape)
        fixed = [jnp.zeros(x.shape[-1]), jnp.ones(x.shape[-1])]
        y, _ = layer.stateless_call([scale, bias], fixed, x, training=True)
        return y

    return norm


def of_torch(xs: list[Any], slopes: list[Any]) -> Callable[[], Any]:
    """Returns what takes each x forward and its slope backward, eagerly."""
    import torch

    kind = torch.nn.BatchNorm2d if xs[0].ndim == 4 else torch.nn.BatchNorm1d
    layer = kind(xs[0].shape[-1], track_running_stats=False)
    given = [to_torch(x).requires_grad_() for x in xs]
    back = [to_torch(slope) for slope in slopes]

    def run():
        results = []  # Held to the end, as those of the others are.
        for x, slope in zip(given, back, strict=True):
            x.grad = None
            results.append(layer(x))
            results[-1].backward(slope)
        return np.zeros(())

    return run


def to_torch(a: Any) -> Any:
    """Returns an array as a tensor, [N, C, H, W] in memory as [N, H, W, C]."""
    import torch

    tensor = torch.from_numpy(np.array(a, np.float32))
    tensor = tensor.permute(0, 3, 1, 2) if a.ndim == 4 else tensor
    return tensor.to(torch.bfloat16) if a.dtype == jnp.bfloat16 else tensor
