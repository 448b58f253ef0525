"""A small convolutional net for images of about 28x28."""

import math

import jax.numpy as jnp
from flax import linen as nn

from jaxbn.base import Array, DType, Norm
from jaxbn.models._layers import as_input, normalize, relu


class ConvNet(nn.Module):
    """3x3 convolution, norm, relu for each layer, halving the image each time.

    Halving is done by the stride, not by pooling, which on a CPU is the difference
    between seconds and minutes. A linear layer over all that is left ends it. A
    convolution before a norm has no bias.

    Attributes:
        num_outputs: classes.
        norm: between each convolution and its relu; None for none.
        features: channels of each layer; all but the first have stride 2.
        dtype: of the computation; parameters are float32.
    """

    num_outputs: int
    norm: Norm | None
    features: tuple[int, ...] = (16, 32, 64)
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        train: bool,
        mask: Array | None = None,
        domain: Array | None = None,
    ) -> Array:
        """Returns float32 outputs [N, num_outputs] of images `x` [N, H, W, C].

        `mask` [N] is true where an example counts in the statistics; `domain` [N] is
        for `domain_norm`.
        """
        x = as_input(self, x, train, 4, mask, domain)
        for i, width in enumerate(self.features, 1):
            x = nn.Conv(
                width,
                (3, 3),
                strides=1 if i == 1 else 2,
                use_bias=self.norm is None,
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=f"conv{i}",
            )(x)
            x = normalize(self.norm, f"bn{i}", x, train, mask, domain)
            x = relu(self, f"layer{i}", x)
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        head = nn.Dense(self.num_outputs, dtype=self.dtype, name="head")
        return head(x).astype(jnp.float32)
