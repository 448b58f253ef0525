"""Weight standardization: the kernel is normalized, where the batch is not.

kernel_hat = (kernel - mean) / sqrt(var + epsilon),   per output feature
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import tree_util

from jaxbn._values import check_function
from jaxbn.base import Array
from jaxbn.core import batch_moments, normalize
from jaxbn.core._arrays import as_inexact


def standardize_kernel(
    kernel: Array, *, axis: int = -1, epsilon: float = 1e-5
) -> Array:
    """Returns a kernel with mean 0 and variance 1 over what each output is made of.

    Args:
        kernel: [..., in, out] of a Dense or Conv, depthwise and grouped ones too.
        axis: of the outputs: -1 in Flax, -2 in ConvTranspose(transpose_kernel=True).
        epsilon: added to the variance, inside the root. (Qiao et al.'s code adds 1e-5
            to the deviation; BiT and Big Vision use 1e-10 in the variance.)

    Returns:
        An array of the shape and dtype of `kernel`; it has a gradient.

    Raises:
        ValueError: if `axis` is not one of its axes.

    Example:
        >>> standardize_kernel(jnp.array([[1.0], [3.0]]), epsilon=0.0).ravel()
        Array([-1.,  1.], dtype=float32)

    References:
        Qiao et al., Weight Standardization, 2019. https://arxiv.org/abs/1903.10520
    """
    kernel = as_inexact(kernel, "kernel")
    moments = batch_moments(kernel, axis=axis)
    options = {"axis": axis, "epsilon": epsilon, "delta": moments.delta}
    return normalize(kernel, moments.shift, moments.var, **options)


def standardize_kernels(
    params: Any, *, epsilon: float = 1e-5, where: Callable[[str], bool] | None = None
) -> Any:
    """Returns parameters whose convolution kernels are standardized.

    Called on the parameters before `model.apply`, inside the loss, it gives any linen
    or nnx model weight standardization: `model.apply({'params':
    standardize_kernels(params)}, x)`. The optimizer keeps the kernels as they are.

    Args:
        params: a tree of linen's or an `nnx.State`.
        epsilon: as in `standardize_kernel`.
        where: which arrays called 'kernel', by path such as 'stem/conv/kernel'. None:
            those of rank 4, of 2-D convolutions. Kernels of rank 3 are of 1-D ones, but
            of attention too; `nn.scan` adds an axis, over which would be averaged.

    Returns:
        A tree like `params`; everything else is as it was.

    Example:
        >>> params = {'conv': {'kernel': jnp.ones((3, 3, 2, 4))}, 'head': {'kernel':
        ...     jnp.ones((4, 2))}}
        >>> new = standardize_kernels(params)
        >>> float(new['conv']['kernel'].sum()), float(new['head']['kernel'].sum())
        (0.0, 8.0)
    """

    if where is not None:
        check_function("where", where, "of a path, such as 'stem/conv/kernel'")

    def change(path: tuple, leaf: Array) -> Array:
        names = [str(key.key) for key in path if hasattr(key, "key")]
        chosen = jnp.ndim(leaf) == 4 if where is None else where("/".join(names))
        if "kernel" not in names or not chosen:
            return leaf
        array = as_inexact(leaf, f"params {'/'.join(names)!r}")
        return standardize_kernel(array, epsilon=epsilon)

    return tree_util.tree_map_with_path(change, params)
