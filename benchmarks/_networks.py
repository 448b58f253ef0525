"""Networks that take any library's layer: ResNet-50, and blocks, with `norm` a class.

Nothing but the norm differs: its class, or a function that returns one of its layers,
takes the arguments of `flax.linen.BatchNorm`. Haiku's blocks are its own.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from benchmarks import _peers as peers

Layers = dict[str, Callable[..., nn.Module]]


def linen_layers(baseline: str = "") -> Layers:
    """Returns the batch norms that are Flax modules, by library."""
    builds = peers.builds(baseline).items()
    modules = {k: importlib.import_module(f"{b.__name__}.linen") for k, b in builds}
    return {
        **{name: module.BatchNorm for name, module in modules.items()},
        "flax": nn.BatchNorm,
        "flax, exact": functools.partial(nn.BatchNorm, use_fast_variance=False),
    }


class Network(nn.Module):
    """What the networks share: a convolution and the norm behind it.

    Attributes:
        norm: a layer's class.
        width: channels of the first convolution.
        dtype: of the computation; parameters are float32.
    """

    norm: Callable[..., nn.Module]
    width: int = 64
    dtype: Any = jnp.float32

    def convolved(self, x, features, size, stride=1):
        """Returns `x` convolved and normalized."""
        square = (size, size)
        conv = nn.Conv(features, square, stride, use_bias=False, dtype=self.dtype)
        return self.norm(False, momentum=0.9, dtype=self.dtype)(conv(x))


class ResNet(Network):
    """A ResNet of bottlenecks for images of 224x224, by default the one of 50 layers.

    Attributes:
        stages: the number of blocks of each.
    """

    stages: tuple[int, ...] = (3, 4, 6, 3)

    @nn.compact
    def __call__(self, x):
        x = nn.relu(self.convolved(x.astype(self.dtype), self.width, 7, 2))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for i, blocks in enumerate(self.stages):
            for j in range(blocks):
                width, stride = self.width * 2**i, 2 if i > 0 and j == 0 else 1
                y = nn.relu(self.convolved(x, width, 1))
                y = nn.relu(self.convolved(y, width, 3, stride))
                y = self.convolved(y, 4 * width, 1)
                x = x if x.shape == y.shape else self.convolved(x, 4 * width, 1, stride)
                x = nn.relu(x + y)
        return nn.Dense(1000, dtype=self.dtype)(x.mean((1, 2))).astype(jnp.float32)


class Blocks(Network):
    """Blocks of 3x3 convolution, norm and relu.

    Attributes:
        depth: how many.
    """

    depth: int = 6

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = nn.relu(self.convolved(x, self.width, 3))
        return x


def training_loss(model: nn.Module, policy: Any = None) -> Callable[..., Any]:
    """Returns the loss in training and, beside it, the new running statistics.

    Called with parameters, running statistics and images, whose first is the class of
    all; rematerialized by `policy` if there is one.
    """

    def loss(params, stats, x):
        given = {"params": params, "batch_stats": stats}
        y, new = model.apply(given, x, mutable=["batch_stats"])
        y = jax.nn.log_softmax(y.astype(jnp.float32))
        return -jnp.mean(y[..., 0]), new["batch_stats"]

    return loss if policy is None else jax.checkpoint(loss, policy=policy)


def variables(model: nn.Module, x: Any) -> tuple[Any, Any]:
    """Returns parameters and running statistics as shapes."""
    found = jax.eval_shape(model.init, jax.random.key(0), x)
    return found["params"], found["batch_stats"]


def haiku_blocks(width: int, depth: int, x: Any) -> tuple[Any, tuple]:
    """Returns the loss of blocks as Haiku's users write them, and its arguments."""
    import haiku as hk

    def network(x):
        for _ in range(depth):
            x = hk.Conv2D(width, 3, with_bias=False)(x)
            x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(x, True))
        return x

    model = hk.transform_with_state(network)

    def loss(params, state, x):
        y, state = model.apply(params, state, None, x)
        return -jnp.mean(jax.nn.log_softmax(y)[..., 0]), state

    return loss, (*jax.eval_shape(model.init, jax.random.key(0), x), x)
