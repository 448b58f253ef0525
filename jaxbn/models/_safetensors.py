"""Files of weights: safetensors, with the names of PyTorch or of Flax."""

from pathlib import Path
from typing import Any

import numpy as np


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


def as_tree(arrays: dict[str, Any]) -> dict[str, Any]:
    """Returns arrays called 'params/bn/scale' as a tree."""
    from flax import traverse_util

    return traverse_util.unflatten_dict(arrays, sep="/")
