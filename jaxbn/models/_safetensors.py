"""Files of weights: safetensors, with the names of PyTorch or of Flax."""

from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from jaxbn.models._load_torch import load_torch


def has_torch_names(arrays: dict[str, Any]) -> bool:
    """Returns whether a file of weights is PyTorch's."""
    return any(name.endswith("running_mean") for name in arrays)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a safetensors file, half precision as float32.

    Raises:
        ValueError: if it cannot be read as one.
    """
    from safetensors import SafetensorError
    from safetensors.flax import load_file

    if not path.is_file():
        raise ValueError(
            f"{path} is not there, expected the folder of a run or a safetensors file"
        )
    try:
        return {name: np.asarray(array) for name, array in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no safetensors file ({error}); files of torch.save are pickles "
            "and are not read: save a state dict with safetensors.torch.save_file"
        ) from None


def read_weights(path: Path, model: str) -> dict[tuple[str, ...], Any]:
    """Returns the arrays of a file of weights by their path in Flax's variables.

    Args:
        path: of the file, with the names of Flax or, for `load_torch`, of PyTorch.
        model: as for `load_torch`.

    Raises:
        ValueError: if it cannot be read, or as `load_torch`.
    """
    arrays = read_safetensors(path)
    if has_torch_names(arrays):
        return traverse_util.flatten_dict(load_torch(model, arrays))
    return {tuple(name.split("/")): array for name, array in arrays.items()}


def as_tree(arrays: dict[str, Any]) -> dict[str, Any]:
    """Returns arrays called 'params/bn/scale' as a tree.

    Raises:
        ValueError: if an array has the name of a folder of others.
    """
    folders = {name[:i] for name in arrays for i, c in enumerate(name) if c == "/"}
    if clash := sorted(folders & arrays.keys()):
        raise ValueError(
            f"{clash[0]!r} is an array, and there are others below it; expected names "
            "of Flax, such as params/bn1/scale, or of PyTorch"
        )
    return traverse_util.unflatten_dict(arrays, sep="/")
