"""Folding: batch norm in evaluation becomes part of the layer before it.

    gain = scale / sqrt(var + epsilon)
    kernel' = kernel * gain        bias' = (bias - mean) * gain + norm_bias

A layer without a bias keeps none; what is added then stays where the norm was, as its
'bias' [C]. Statistics and scale are gone.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbn._values import check_flags, check_number
from jaxbn.base import Array
from jaxbn.surgery._pairs import Pair, find_pairs
from jaxbn.surgery._rewrite import assemble
from jaxbn.tree import Call, check_known, find_layers, params_of, stats_of, variables_of


class Folded(NamedTuple):
    """A model without the norms that could be folded.

    Attributes:
        apply: `apply(variables, *args, **kwargs)`, the model's call in evaluation.
        variables: of it: linen's, or an `nnx.State`.
        pairs: what was folded into what.
        refused: norms that stay, and why, by path; those too without which the outputs
            alone are not the same, such as behind a kernel that is used elsewhere.
        error: the largest difference of the outputs, relative to the largest output.
        num_params: numbers in parameters and statistics, before and after.
    """

    apply: Any
    variables: Any
    pairs: tuple[Pair, ...]
    refused: dict[str, str]
    error: float
    num_params: tuple[int, int]


def fold(
    model: Any,
    variables: Any,
    *args: Any,
    tolerance: float | None = None,
    dry_run: bool = False,
    **kwargs: Any,
) -> Folded:
    """Returns the model with its batch norms folded into the layers before them.

    The outputs before and after are compared with all products in full precision
    (`jax.default_matmul_precision('highest')`): where a GPU rounds their factors to
    TF32, a right result would be refused. A layer's own `precision=` takes precedence.

    Into Dense (Linear), Conv and ConvTranspose of Flax, grouped and depthwise ones too,
    where the norm takes the layer's output and nothing else does; that is read off the
    traced computation, not guessed from names. The model's code is not touched, nor are
    its variables. Norms are those of `flax.linen`, `flax.nnx` and jaxbn.

    Args:
        model: a linen or nnx module.
        variables: of it; None for what an nnx model holds.
        *args: of a call in evaluation, such as `x, False`. On these inputs the
            outputs before and after are compared.
        tolerance: by how much they may differ, relative to the largest output; by
            default 1e-5, and 0.02 if a kernel or an output is of half precision.
        dry_run: only say what would be folded: `variables` and `apply` are those that
            came, `error` is 0.
        **kwargs: of the call.

    Returns:
        A `Folded`. Kernels keep their dtype; gains are computed in float64.

    Raises:
        ValueError: if the outputs differ by more than `tolerance` or are not finite,
            whichever norm is folded; in `apply`, if a norm that was folded is called
            in training.

    Example:
        >>> from flax import linen as nn
        >>> model = nn.Sequential([nn.Dense(2), nn.BatchNorm(use_running_average=True)])
        >>> x = jnp.array([[1.0, 2.0]])
        >>> folded = fold(model, model.init(jax.random.key(0), x), x)
        >>> folded.pairs[0].layer, folded.pairs[0].norm, folded.num_params
        ('layers_0', 'layers_1', (14, 6))
        >>> y = folded.apply(folded.variables, x)

    References:
        Ioffe and Szegedy, Batch normalization, 2015, section 3.1.
        Jacob et al., Quantization and training of neural networks, 2018, section 3.2.
        PyTorch's `fuse_conv_bn_eval` does one pair of modules; its form for grouped
        transposed convolutions is wrong (torch 2.13).
    """
    variables = variables_of(model, variables)
    check_flags(dry_run=dry_run)
    check_known("fold", variables, args, kwargs)
    if tolerance is not None:
        check_number("tolerance", tolerance, 0, fix="None for that of the dtype")
    found, refused = find_pairs(model, variables, *args, **kwargs)
    plain, before = assemble(model, None), size_of(variables)
    if dry_run:
        return Folded(plain.apply, variables, found, refused, 0.0, (before, before))
    with jax.default_matmul_precision("highest"):
        expected = jax.tree.leaves(plain.apply(variables, *args, **kwargs))
    if tolerance is None:
        leaves = [*expected, *jax.tree.leaves(params_of(variables))]
        half = any(jnp.result_type(leaf).itemsize == 2 for leaf in leaves)
        tolerance = 0.02 if half else 1e-5

    def attempt(pairs: tuple[Pair, ...]) -> Folded:
        changed = assemble(model, _Without({pair.norm: pair for pair in pairs}))
        new = changed.replace(variables, *_new_layers(variables, pairs))
        with jax.default_matmul_precision("highest"):
            outputs = jax.tree.leaves(changed.apply(new, *args, **kwargs))
        error, size = _difference(expected, outputs), size_of(new)
        return Folded(changed.apply, new, pairs, refused, error, (before, size))

    folded = attempt(found)
    if not folded.error <= tolerance:
        # Kernels that are used elsewhere, or not as they are stored, show here.
        errors = {pair: attempt((pair,)).error for pair in found}
        bad = {pair: error for pair, error in errors.items() if not error <= tolerance}
        for pair, error in bad.items():
            refused[pair.norm] = f"without it the outputs differ by {error:.2g}"
        if len(bad) < len(found):
            folded = attempt(tuple(pair for pair in found if pair not in bad))
    if not folded.error <= tolerance:
        raise ValueError(
            f"the outputs of the folded model differ by {folded.error:.2g} of the "
            f"largest, expected at most {tolerance}; pass a larger tolerance= if "
            "dtypes or means far from 0 explain it"
        )
    return folded


class _Without:
    """The handler that leaves out norms; hashable by identity.

    Args:
        folded: what was folded, by path of the norm.
    """

    def __init__(self, folded: dict[str, Pair]):
        self.folded = folded

    def __call__(self, call: Call) -> tuple[Array, dict]:
        """Returns what is left of a norm."""
        if call.path not in self.folded:
            return call.proceed(), {}
        if not call.use_running_average:
            raise ValueError(
                f"the norm {call.path!r} was folded and is called in training, "
                "expected evaluation; train the model that was folded instead"
            )
        pair = self.folded[call.path]
        y = call.x if pair.dtype is None else call.x.astype(pair.dtype)
        if not pair.with_bias:
            bias = call.params["bias"].astype(y.dtype)
            y = y + bias.reshape((1,) * (y.ndim - 1) + bias.shape)
        return y, {}


def _new_layers(
    variables: Any, pairs: tuple[Pair, ...]
) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """Returns the new parameters by path, and the norms whose statistics go."""
    params, stats = find_layers(params_of(variables)), find_layers(stats_of(variables))
    new: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        layer, norm = params[pair.layer], params.get(pair.norm, {})
        whole = {**norm, **stats[pair.norm]}
        held = {name: np.asarray(value, np.float64) for name, value in whole.items()}
        gain = held.get("scale", 1.0) / np.sqrt(held["var"] + pair.epsilon)
        kernel = np.asarray(layer["kernel"])
        shape = [1] * kernel.ndim
        shape[pair.outputs] = -1
        offset = held.get("bias", 0.0) - held["mean"] * gain
        kernel = kernel * np.reshape(gain, shape)
        new[pair.layer] = {"kernel": like(kernel, layer["kernel"])}
        if pair.with_bias:
            bias = np.asarray(layer["bias"], np.float64) * gain + offset
            new[pair.layer]["bias"] = like(bias, layer["bias"])
            new[pair.norm] = {}
        else:
            pattern = norm.get("bias", stats[pair.norm]["mean"])
            new[pair.norm] = {"bias": like(offset, pattern)}
    return new, {pair.norm for pair in pairs}


def like(value: np.ndarray, old: Any) -> Array:
    """Returns a value as an array of the dtype of another, and lying as that does."""
    new = jnp.asarray(value, jnp.asarray(old).dtype)
    return jax.device_put(new, old.sharding) if isinstance(old, jax.Array) else new


def _difference(expected: list[Array], found: list[Array]) -> float:
    """Returns how far outputs are apart, of the largest; inf if not finite."""
    apart = 0.0
    for a, b in zip(expected, found, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        size = np.max(np.abs(a), initial=0) or 1.0
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return math.inf  # NaN would lose every comparison.
        apart = max(apart, float(np.max(np.abs(a - b), initial=0) / size))
    return apart


def size_of(variables: Any) -> int:
    """Returns how many numbers there are in parameters and statistics."""
    trees = params_of(variables), stats_of(variables)
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(trees))
