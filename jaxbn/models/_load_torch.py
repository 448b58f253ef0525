"""Weights of PyTorch's residual nets, torchvision's and timm's, for those of jaxbn.

    conv1, bn1                 -> stem, bn_stem
    layer2.0.conv1, .bn1       -> stage2_block1/conv1, /bn1
    layer2.0.downsample.0, .1  -> stage2_block1/shortcut, /bn_shortcut
    fc                         -> head

Kernels are [out, in, height, width] there and [height, width, in, out] here. No torch
is needed.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxbn._values import as_numpy, as_tensor, check_count, check_mapping, shown
from jaxbn.core import batch_norm
from jaxbn.models._create import create_model

NAMES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""Of the models that `load_torch` knows."""
_ENTRIES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_ENTRIES |= {"mean": "running_mean", "var": "running_var"}
_LAYERS = {"stem": "conv1", "bn_stem": "bn1", "head": "fc"}
_LAYERS |= {"shortcut": "downsample.0", "bn_shortcut": "downsample.1"}
_LISTED = 5


def load_torch(
    name: str, state_dict: Mapping[str, Any], *, prefix: str = ""
) -> dict[str, Any]:
    """Returns the variables of the model called `name`, from a state dict of PyTorch.

    The logits are then PyTorch's, in evaluation and in training, and the running
    statistics too with `batch_norm(momentum=0.9, unbiased=True)`: its `BatchNorm2d`
    absorbs unbiased variances, and its momentum of 0.1 is 0.9 here.

    Args:
        name: 'resnet18', 'resnet34', 'resnet50', 'resnet101' or 'resnet152'.
        state_dict: of torchvision's or timm's model of that name: NumPy arrays, tensors
            of any dtype, or what `safetensors.numpy.load_file` returns. Files of torch
            itself are pickles, which run code, and are not read here; load those of
            others with `torch.load(path, weights_only=True)`.
        prefix: of the names, taken off: 'module.' of DistributedDataParallel. Names
            without it are left out.

    Returns:
        `{'params': ..., 'batch_stats': ...}`, float32, for
        `create_model(name, num_outputs, batch_norm())` with as many outputs as 'fc'
        has.

    Raises:
        ValueError: if there is no such model, or the names or shapes of the arrays are
            not those of the model; the missing, the unexpected and the different ones
            are named.

    Example:
        >>> import jax
        >>> shapes = torch_shapes('resnet18', num_outputs=7)
        >>> zeros = {name: np.zeros(shape) for name, shape in shapes.items()}
        >>> variables = load_torch('resnet18', zeros)
        >>> variables['params']['head']['kernel'].shape
        (512, 7)
    """
    check_mapping("state_dict", state_dict)
    if not isinstance(prefix, str):
        raise ValueError(f"prefix is {shown(prefix)}, expected the start of names")
    given = {
        key.removeprefix(prefix): value
        for key, value in state_dict.items()
        if key.startswith(prefix) and not key.endswith("num_batches_tracked")
    }
    head = np.shape(given["fc.bias"]) if "fc.bias" in given else ()
    outputs = (*head, 1000)[0]
    expected = torch_shapes(name, num_outputs=outputs)
    _check(name, expected, {key: np.shape(value) for key, value in given.items()})
    leaves = {}
    for path in _paths(name, outputs):
        array = as_tensor(_torch_name(path), given[_torch_name(path)])
        leaves[path] = jnp.asarray(_to_flax(path, array), jnp.float32)
    return traverse_util.unflatten_dict(leaves)


def dump_torch(name: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns a state dict for torchvision's or timm's model: `load_torch`, backwards.

    Args:
        name: of the model, as for `load_torch`.
        variables: `{'params': ..., 'batch_stats': ...}` of
            `create_model(name, num_outputs, batch_norm())`.

    Returns:
        NumPy arrays, float32, for `safetensors.numpy.save_file`, or, each through
        `torch.from_numpy`, for `load_state_dict(..., strict=False)`: torch's
        num_batches_tracked is not among them.

    Raises:
        ValueError: if there is no such model, or the variables are not those of it.

    Example:
        >>> shapes = torch_shapes('resnet18', num_outputs=7)
        >>> ones = {name: np.ones(shape) for name, shape in shapes.items()}
        >>> there = dump_torch('resnet18', load_torch('resnet18', ones))
        >>> there['conv1.weight'].shape
        (64, 3, 7, 7)
    """
    check_mapping("variables", variables)
    leaves: dict[Any, Any] = traverse_util.flatten_dict(dict(variables))
    head = leaves.get(("params", "head", "bias"), np.zeros(1))
    expected = _paths(_known(name), len(as_numpy("the bias of the head", head)))
    shapes = {path: np.shape(leaf) for path, leaf in leaves.items()}
    wrong = {path for path, _ in expected.items() ^ shapes.items()}
    if wrong:
        raise ValueError(
            f"variables differ from those of {name} with batch norm in "
            f"{_some(sorted('/'.join(map(str, path)) for path in wrong))}; pass what "
            "its init or apply returned"
        )
    return {
        _torch_name(path): _to_torch(path, np.asarray(leaf, np.float32))
        for path, leaf in leaves.items()
    }


def torch_shapes(name: str, *, num_outputs: int = 1000) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of a state dict that `load_torch` takes.

    Args:
        name: of the model, as for `load_torch`.
        num_outputs: classes.

    Raises:
        ValueError: if `load_torch` knows no such model.

    Example:
        >>> torch_shapes('resnet50')['layer1.0.downsample.0.weight']
        (256, 64, 1, 1)
    """
    check_count("num_outputs", num_outputs, 1)
    return {
        _torch_name(path): _to_torch(path, np.broadcast_to(0, shape)).shape
        for path, shape in _paths(_known(name), num_outputs).items()
    }


def _known(name: str) -> str:
    """Returns the name of a model that PyTorch's weights fit."""
    if not isinstance(name, str) or name not in NAMES:
        raise ValueError(
            f"name is {shown(name)}, expected one of {', '.join(NAMES)}; for batch "
            "norms of other models there is jaxbn.surgery.from_torch"
        )
    return name


@functools.lru_cache(maxsize=8)
def _paths(name: str, num_outputs: int) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Returns the shape of each variable by its path; traced, not run."""
    model = create_model(name, num_outputs, batch_norm())
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, False), image)
    flat: dict[Any, Any] = traverse_util.flatten_dict(shapes)
    return {path: leaf.shape for path, leaf in flat.items()}


def _torch_name(path: tuple[str, ...]) -> str:
    """Returns PyTorch's name of the variable at a path."""
    _, *blocks, layer, entry = path
    names = [_LAYERS.get(layer, layer), _ENTRIES[entry]]
    for block in blocks:
        stage, index = re.findall(r"\d+", block)
        names = [f"layer{stage}", str(int(index) - 1), *names]
    return ".".join(names)


def _to_torch(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    """Returns an array of Flax's as PyTorch has it."""
    if path[-1] != "kernel":
        return array
    return array.transpose(-1, -2, *range(array.ndim - 2))


def _to_flax(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    """Returns an array of PyTorch's as Flax has it."""
    if path[-1] != "kernel":
        return array
    return array.transpose(*range(2, array.ndim), 1, 0)


def _check(
    name: str,
    expected: dict[str, tuple[int, ...]],
    given: dict[str, tuple[int, ...]],
) -> None:
    """Refuses names and shapes that are not those of the model."""
    missing = [key for key in expected if key not in given]
    unexpected = sorted(set(given) - set(expected))
    different = [
        f"{key} {given[key]} instead of {shape}"
        for key, shape in expected.items()
        if key in given and given[key] != shape
    ]
    found = {
        "lacks": missing,
        "has, unexpected,": unexpected,
        "has, of another shape,": different,
    }
    words = [f"{what} {_some(keys)}" for what, keys in found.items() if keys]
    if words:
        raise ValueError(
            f"state_dict {'; '.join(words)}; expected that of {name} of torchvision "
            "or timm, whole; pass prefix= if its names have one"
        )


def _some(keys: list[str]) -> str:
    """Returns some names, and how many more there are."""
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return f"{', '.join(keys[:_LISTED])}{more}"
