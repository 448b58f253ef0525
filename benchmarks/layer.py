"""What a layer costs, forward and backward: beside its peers, and bare passes.

    python -m benchmarks.layer [--repeats N] [--json FILE]

Eight layers in a row in one program, from their input to the gradients of input, scale
and bias, so that memory is allocated once. Peers that are not installed are left out,
by name. The bare passes are those that any batch norm has to make, and no more: one
read of the input for two sums, one to normalize, one of input and slope for two sums,
one for the result. (They cancel at an offset, and are no norm to use.)
`benchmarks/README.md` has the figures.
"""

import argparse
import importlib.util
import json
import math
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks._turns import in_turn
from jaxbn import bn_apply, bn_init

SHAPES = (
    (4096, 256),
    (64, 32, 32, 64),
    (32, 56, 56, 64),
    (32, 28, 28, 128),
    (32, 14, 14, 256),
    (32, 7, 7, 512),
)
LAYERS = 8


@jax.custom_vjp
def bare(x, scale, bias):
    """The passes of a batch norm, without care for its digits."""
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


def of_jax(norm: Callable[..., Any], x: Any, slope: Any) -> Callable[[], Any]:
    """Returns what runs eight layers of `norm(x, scale, bias)` and their gradients."""

    @jax.jit
    def run(x, scales, biases, slope):
        def layers(x, scales, biases):
            for i in range(LAYERS):
                x = norm(x, scales[i], biases[i])
            return x

        y, back = jax.vjp(layers, x, scales, biases)
        return y, back(slope)

    channels = x.shape[-1]
    scales, biases = jnp.ones((LAYERS, channels)), jnp.zeros((LAYERS, channels))
    return lambda: run(x, scales, biases, slope)


def ours(x, scale, bias):
    params, state = {"scale": scale, "bias": bias}, bn_init(x.shape[-1])[1]
    return bn_apply(params, state, x, True)[0]


def of_flax(fast: bool) -> Callable[..., Any]:
    from flax import linen as nn

    layer = nn.BatchNorm(False, use_fast_variance=fast)

    def norm(x, scale, bias):
        stats = {"mean": jnp.zeros(x.shape[-1]), "var": jnp.ones(x.shape[-1])}
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
        y, _ = layer.apply(variables, x, mutable=["batch_stats"])
        return y.astype(x.dtype)

    return norm


def of_haiku() -> Callable[..., Any]:
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


def of_torch(x: Any, slope: Any) -> Callable[[], Any]:
    import torch

    kind = torch.nn.BatchNorm2d if x.ndim == 4 else torch.nn.BatchNorm1d
    layers = torch.nn.Sequential(*(kind(x.shape[-1]) for _ in range(LAYERS)))
    half = x.dtype == jnp.bfloat16

    def channels_last(a):
        tensor = torch.from_numpy(np.array(a, np.float32))
        tensor = tensor.permute(0, 3, 1, 2) if a.ndim == 4 else tensor
        return tensor.to(torch.bfloat16) if half else tensor

    given, back = channels_last(x).requires_grad_(), channels_last(slope)

    def run():
        given.grad = None
        y = layers(given)
        y.backward(back)
        return np.zeros(())

    return run


def measure(shape: tuple[int, ...], dtype: str, repeats: int) -> dict[str, Any]:
    """Returns milliseconds of eight layers by library."""
    rng = np.random.default_rng(0)
    x, slope = (jnp.asarray(rng.normal(size=shape), dtype) for _ in range(2))
    runs = {
        "bare passes": of_jax(bare, x, slope),
        "jaxbn": of_jax(ours, x, slope),
        "flax": of_jax(of_flax(True), x, slope),
        "flax, exact": of_jax(of_flax(False), x, slope),
    }
    if importlib.util.find_spec("haiku"):
        runs["haiku"] = of_jax(of_haiku(), x, slope)
    if importlib.util.find_spec("torch"):
        runs["torch"] = of_torch(x, slope)
    return {name: timing._asdict() for name, timing in in_turn(runs, repeats).items()}


def main() -> None:
    """Measures all shapes, and prints ratios to the bare passes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", help="where to write the figures")
    arguments = parser.parse_args()
    found = {}
    for shape in SHAPES:
        row = measure(shape, arguments.dtype, arguments.repeats)
        found["x".join(map(str, shape))] = row
    names = list(next(iter(found.values())))
    print(f"| {arguments.dtype} | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for shape, row in found.items():
        least = row[names[0]]["median"]
        ratios = [f"{row[name]['median'] / least:.2f}" for name in names[1:]]
        print(f"| {shape} | {least:.1f} ms | " + " | ".join(ratios) + " |")
    means = [
        statistics.geometric_mean(
            row[name]["median"] / row[names[0]]["median"] for row in found.values()
        )
        for name in names[1:]
    ]
    print("| geometric mean | | " + " | ".join(f"{m:.2f}" for m in means) + " |")
    for peer, module in (("haiku", "haiku"), ("torch", "torch")):
        if not importlib.util.find_spec(module):
            print(f"{peer} is not installed, and left out")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
