"""Residual nets: the CIFAR family of depth 6n + 2, and ResNet-18 to 152 of torchvision.

Both follow He et al., with two habits of today: the last scale of each block starts at
zero, so that a block starts as its shortcut (Goyal et al., 2017), and in a bottleneck
the 3x3 convolution has the stride, not the 1x1 before it. Images are NHWC.

The nets for large images pad as PyTorch does, (k - 1) / 2 on both sides, so that its
weights mean the same here at any size of image. 'SAME', Flax's default, pads a
convolution of stride 2 on one side only where the size is even.
"""

import jax.numpy as jnp
from flax import linen as nn

from jaxbn.base import Array, DType, Norm
from jaxbn.models._layers import as_input, normalize, relu


class Residual(nn.Module):
    """A block: two 3x3 convolutions, or 1x1, 3x3, 1x1, added to a shortcut.

    Attributes:
        width: channels within; the output has four times as many in a bottleneck.
        norm: after each convolution; None for none.
        stride: of the block.
        bottleneck: which of the two forms.
        pad_both_sides: (k - 1) / 2 zeros on both sides, as PyTorch; 'SAME' otherwise.
        dtype: of the computation.
    """

    width: int
    norm: Norm | None
    stride: int = 1
    bottleneck: bool = False
    pad_both_sides: bool = False
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        train: bool,
        mask: Array | None = None,
        domain: Array | None = None,
    ) -> Array:
        """Returns the output of the block, of the input's size over `stride`."""
        s, w = self.stride, self.width
        plain = [(w, 3, s), (w, 3, 1)]
        layers = [(w, 1, 1), (w, 3, s), (4 * w, 1, 1)] if self.bottleneck else plain
        y = x
        for i, (features, size, stride) in enumerate(layers, 1):
            last = i == len(layers)
            y = self.conv(f"conv{i}", y, features, size, stride)
            norm = starting_at_zero(self.norm) if last else self.norm
            y = normalize(norm, f"bn{i}", y, train, mask, domain)
            y = y if last else relu(self, f"layer{i}", y)
        if x.shape != y.shape:
            x = self.conv("shortcut", x, y.shape[-1], 1, s)
            x = normalize(self.norm, "bn_shortcut", x, train, mask, domain)
        return relu(self, "output", x + y)

    def conv(self, name: str, x: Array, features: int, size: int, stride: int) -> Array:
        """Returns `x` convolved; without a norm there is a bias."""
        return nn.Conv(
            features,
            (size, size),
            strides=stride,
            padding=size // 2 if self.pad_both_sides else "SAME",
            use_bias=self.norm is None,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            dtype=self.dtype,
            name=name,
        )(x)


class ResNet(nn.Module):
    """A stem, stages of residual blocks, a mean over positions, a linear layer.

    Attributes:
        num_outputs: classes.
        norm: after each convolution; None for none.
        stages: the number of blocks of each stage; each but the first halves the image
            and doubles the width.
        width: channels of the first stage.
        bottleneck: 1x1, 3x3, 1x1 blocks with four times the channels at the end.
        large_images: a 7x7 stem of stride 2 and pooling, for 224x224, instead of 3x3,
            and PyTorch's padding; with `width=64` torchvision's net.
        dtype: of the computation; parameters are float32.
    """

    num_outputs: int
    norm: Norm | None
    stages: tuple[int, ...] = (3, 3, 3)
    width: int = 16
    bottleneck: bool = False
    large_images: bool = False
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
        size, stride = (7, 2) if self.large_images else (3, 1)
        x = nn.Conv(
            self.width,
            (size, size),
            strides=stride,
            padding=size // 2,
            use_bias=self.norm is None,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            dtype=self.dtype,
            name="stem",
        )(x)
        x = normalize(self.norm, "bn_stem", x, train, mask, domain)
        x = relu(self, "stem_output", x)
        if self.large_images:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for i, blocks in enumerate(self.stages):
            for j in range(blocks):
                x = Residual(
                    self.width * 2**i,
                    self.norm,
                    stride=2 if i > 0 and j == 0 else 1,
                    bottleneck=self.bottleneck,
                    pad_both_sides=self.large_images,
                    dtype=self.dtype,
                    name=f"stage{i + 1}_block{j + 1}",
                )(x, train, mask, domain)
        x = x.mean((1, 2))
        head = nn.Dense(self.num_outputs, dtype=self.dtype, name="head")
        return head(x).astype(jnp.float32)


def starting_at_zero(norm: Norm | None) -> Norm | None:
    """Returns `norm` with a scale, if it has one, that starts at zero."""
    if norm is None:
        return None
    start = norm.init

    def init(num_features, *, key=None):
        params, state = start(num_features, key=key)
        if "scale" in params:
            params = {**params, "scale": jnp.zeros_like(params["scale"])}
        return params, state

    return norm._replace(init=init)
