"""Fine-tuning: the weights a run starts from, and which of them stand still.

`--init_from` brings parameters and running statistics that were made elsewhere; what
`--freeze` says is one of

    nothing         all is trained, and the running statistics follow the new data
    statistics      all is trained, but norms normalize by the statistics as they are
    all_but_affine  scale and bias of the norms are trained, and the head
    all_but_head    the head alone is trained, and the statistics stay as they are
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxbn.models._safetensors import read_weights
from jaxbn.training._config import ConfigError, TrainConfig
from jaxbn.training._trained import load_trained
from jaxbn.tree import find_layers, has_statistics

HEAD = "head"
"""The last layer of every model, whose size is the number of classes."""
_LISTED = 3


def start_from(
    config: TrainConfig, name: str, params: Any, batch_stats: Any
) -> tuple[Any, Any]:
    """Returns parameters and statistics of `--init_from` in the place of fresh ones.

    A head of another number of classes stays fresh.

    Args:
        config: of the run.
        name: of the arm.
        params: fresh ones.
        batch_stats: likewise.

    Raises:
        ConfigError: if the file cannot be read, or is of another network.
    """
    if config.init_from is None:
        return params, batch_stats
    try:
        given = read_variables(config, name)
    except ValueError as error:
        raise ConfigError(f"--init_from: {error}") from None
    fresh = _flat({"params": params, "batch_stats": batch_stats})
    heads = {path for path in fresh.keys() | given.keys() if HEAD in path[1:2]}
    if any(_shape(fresh, path) != _shape(given, path) for path in heads):
        given = {path: leaf for path, leaf in given.items() if path not in heads}
        given |= {path: leaf for path, leaf in fresh.items() if path in heads}
    if differing := _differing(fresh, given):
        raise ConfigError(
            f"--init_from={config.init_from} is not of --model={config.model} with "
            f"--norm={name}: {differing}"
        )
    taken = {path: jnp.asarray(given[path], leaf.dtype) for path, leaf in fresh.items()}
    trees = traverse_util.unflatten_dict(taken)
    return trees["params"], trees.get("batch_stats", {})


def read_variables(config: TrainConfig, name: str) -> dict[tuple[str, ...], Any]:
    """Returns the arrays that `--init_from` names, by path.

    Of a run they are those of the arm with the norm called `name`, or of the first.
    """
    path = Path(config.init_from or "")
    if path.is_dir():
        trained = load_trained(path)
        if name != trained.norm and name in trained.config.norms:
            trained = load_trained(path, norm=name)
        return _flat(trained.variables)
    return read_weights(path, config.model)


def label_parameters(config: TrainConfig, params: Any) -> Any:
    """Returns 'trained' or 'frozen' for each parameter, as `--freeze` says."""
    layers = find_layers(params)

    def label(path: tuple[Any, ...], _: Any) -> str:
        of_norm = "kernel" not in layers["/".join(path[:-1])]
        trained = path[0] == HEAD or (config.freeze == "all_but_affine" and of_norm)
        return "trained" if trained else "frozen"

    return traverse_util.path_aware_map(label, params)


def holds_statistics(config: TrainConfig, name: str, batch_stats: Any) -> bool:
    """Returns whether norms normalize by their running statistics in training.

    Raises:
        ConfigError: if that is all that was asked for, and there are none.
    """
    there = any(map(has_statistics, find_layers(batch_stats).values()))
    if config.freeze == "statistics" and not there:
        raise ConfigError(
            f"--freeze=statistics, but --norm={name} has no running statistics, "
            "expected a norm that has some; leave that arm out"
        )
    return there and config.freeze in ("statistics", "all_but_head")


def _flat(variables: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    return traverse_util.flatten_dict(dict(variables))


def _shape(variables: dict[Any, Any], path: Any) -> tuple[int, ...] | None:
    return np.shape(variables[path]) if path in variables else None


def _differing(fresh: dict[Any, Any], given: dict[Any, Any]) -> str:
    """Returns in which arrays two sets of variables differ, in words; '' for none."""
    shapes, theirs = ({k: np.shape(v) for k, v in d.items()} for d in (fresh, given))
    kinds = {
        "missing": sorted(shapes.keys() - theirs.keys()),
        "unexpected": sorted(theirs.keys() - shapes.keys()),
        "of another shape": sorted(
            k for k in shapes.keys() & theirs.keys() if shapes[k] != theirs[k]
        ),
    }
    return "; ".join(
        f"{', '.join('/'.join(path) for path in paths[:_LISTED])}"
        f"{f' and {len(paths) - _LISTED} more' * (len(paths) > _LISTED)} {kind}"
        for kind, paths in kinds.items()
        if paths
    )
