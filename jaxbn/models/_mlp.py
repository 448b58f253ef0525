"""Fully connected nets: the MLP of the MNIST walk-through and a narrow, deep one."""

import math

import jax.numpy as jnp
from flax import linen as nn

from jaxbn.base import Array, DType, Norm
from jaxbn.models._layers import as_input, normalize, relu


class MLP(nn.Module):
    """Linear, norm, relu for each hidden layer; a linear layer on top.

    The default is 784-64-128-10 on MNIST. Images are flattened. The weights start as
    He's, the biases at 0; a linear layer before a norm has no bias.

    Attributes:
        num_outputs: classes, or 1 for regression.
        norm: between each hidden linear layer and its relu; None for none.
        hidden: the width of each hidden layer.
        dtype: of the computation; parameters are float32.
    """

    num_outputs: int
    norm: Norm | None
    hidden: tuple[int, ...] = (64, 128)
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        train: bool,
        mask: Array | None = None,
        domain: Array | None = None,
    ) -> Array:
        """Returns float32 outputs [N, num_outputs] of `x` [N, ...].

        `mask` [N] is true where an example counts in the statistics; `domain` [N] is
        for `domain_norm`.
        """
        x = as_input(self, x, train, None, mask, domain)
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        for i, width in enumerate(self.hidden, 1):
            x = nn.Dense(
                width,
                use_bias=self.norm is None,
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=f"dense{i}",
            )(x)
            x = normalize(self.norm, f"bn{i}", x, train, mask, domain)
            x = relu(self, f"layer{i}", x)
        head = nn.Dense(self.num_outputs, dtype=self.dtype, name="head")
        return head(x).astype(jnp.float32)


class NarrowNet(nn.Module):
    """Seven hidden layers of 30 relu units with weights drawn from N(0, 1), bias 0.1.

    Badly scaled on purpose: each layer multiplies the spread by about 3.9, so that
    without normalization the seventh sees thousands. With it the inputs are normalized
    too, as in the tutorial that the net is taken from (MorvanZhou, TensorFlow 1).

    Attributes:
        num_outputs: classes, or 1 for regression.
        norm: of the inputs and before each relu; None for none.
        hidden: the width of each hidden layer.
        dtype: of the computation; parameters are float32.
    """

    num_outputs: int
    norm: Norm | None
    hidden: tuple[int, ...] = (30,) * 7
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        train: bool,
        mask: Array | None = None,
        domain: Array | None = None,
    ) -> Array:
        """Returns float32 outputs [N, num_outputs] of `x` [N, ...]."""
        x = as_input(self, x, train, None, mask, domain)
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        x = normalize(self.norm, "bn0", x, train, mask, domain)
        start = {
            "kernel_init": nn.initializers.normal(1.0),
            "bias_init": nn.initializers.constant(0.1),
            "dtype": self.dtype,
        }
        for i, width in enumerate(self.hidden, 1):
            x = nn.Dense(width, **start, name=f"dense{i}")(x)
            x = normalize(self.norm, f"bn{i}", x, train, mask, domain)
            x = relu(self, f"layer{i}", x)
        return nn.Dense(self.num_outputs, **start, name="head")(x).astype(jnp.float32)
