"""What a path given to the command line holds: a run, or a file of weights."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Found(NamedTuple):
    """Batch norms by path.

    Attributes:
        layers: 'mean' and 'var', and 'scale' and 'bias' where there are, [C] each.
        what: it is, in words.
        run: the `Trained` that they are of, None for a file.
    """

    layers: dict[str, dict[str, np.ndarray]]
    what: str
    run: Any = None


def read(path: Path, norm: str | None = None) -> Found:
    """Returns the batch norms of a run of `train.py` or a safetensors file.

    Args:
        path: a workdir, or a file with PyTorch's names ('bn1.running_mean') or Flax's
            ('batch_stats/bn1/mean'), as `jaxbn convert` and `jaxbn fold` write them.
        norm: the arm of a run.

    Raises:
        ValueError: if it is neither, or has no batch norm.
    """
    if path.is_dir():
        from jaxbn.training import load_trained

        run = load_trained(path, norm=norm)
        what = f"{run.config.model}, {run.norm} norm, step {run.step}"
        return Found(norms_of(run.variables), what, run)
    from jaxbn.models._safetensors import as_tree, has_torch_names, read_safetensors

    arrays = read_safetensors(path)
    if has_torch_names(arrays):
        from jaxbn.surgery import from_torch

        return Found(norms_of(from_torch(arrays)), "PyTorch's names")
    return Found(norms_of(as_tree(arrays)), "Flax's names")


def write_safetensors(path: Path, tree: Any, metadata: dict[str, str]) -> None:
    """Writes a tree, or a dict, of arrays; whole or not at all."""
    from flax import traverse_util
    from safetensors.numpy import save_file

    from jaxbn.training._files import write_whole

    flat = traverse_util.flatten_dict(tree, sep="/")
    arrays = {name: np.ascontiguousarray(array) for name, array in flat.items()}
    write_whole(path, lambda temporary: save_file(arrays, temporary, metadata))


def norms_of(variables: Any) -> dict[str, dict[str, np.ndarray]]:
    """Returns the layers that have a mean and a variance, with scale and bias.

    Raises:
        ValueError: if there are none.
    """
    from jaxbn.tree import find_layers, has_statistics

    params = find_layers(variables.get("params", {}))
    stats = find_layers(variables.get("batch_stats", {}))
    found = {
        path: {
            key: np.asarray(value, np.float32)
            for key, value in {**params.get(path, {}), **held}.items()
            if key in ("scale", "bias", "mean", "var")
        }
        for path, held in stats.items()
        if has_statistics(held)
    }
    if not found:
        raise ValueError("there is no batch norm with a mean and a variance in it")
    return found
