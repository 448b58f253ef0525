"""What a run left: its network, ready to be evaluated, folded or exported."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxbn._values import check_flags, shown
from jaxbn.base import Array
from jaxbn.data import Dataset, to_float
from jaxbn.training._checkpoint import (
    PREFIX,
    Checkpoint,
    read_checkpoint,
    stored_steps,
)
from jaxbn.training._config import ConfigError, TrainConfig
from jaxbn.training._files import write_json
from jaxbn.training._norms import create_network
from jaxbn.training._step import variables_of

DATA = "data.json"


class Trained(NamedTuple):
    """A network as a run left it.

    Attributes:
        model: called as `model(x, train)`, with `domain=` if its norm has domains.
        variables: `{'params': ..., 'batch_stats': ...}`; the statistics are pooled over
            devices.
        config: of the run.
        norm: the name of the arm.
        step: of the checkpoint.
        data: 'shape' and 'dtype' of an input, 'mean' and 'std' [C] that standardize it,
            'num_classes', 'task' and 'num_domains'.
    """

    model: nn.Module
    variables: dict[str, Any]
    config: TrainConfig
    norm: str
    step: int
    data: dict[str, Any]

    @property
    def by_domain(self) -> bool:
        """Whether the model takes the domain of each example."""
        return self.norm == "domain"

    def predict(self, variables: Any, inputs: Array, domain: Any = None) -> Array:
        """Returns the outputs [N, classes] in evaluation, of inputs as data sets have.

        Args:
            variables: such as `self.variables`.
            inputs: [N, ...], uint8 images or float rows; standardized here.
            domain: [N] or [], where the model takes it.
        """
        args, told = self.arguments(inputs, domain)
        outputs: Any = self.model.apply(variables, *args, **told)
        return outputs

    def arguments(
        self, inputs: Any, domain: Any = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns args and kwargs of the model's call in evaluation; see `predict`."""
        x = to_float(inputs, self.data["mean"], self.data["std"])
        return (x, False), {"domain": domain} if self.by_domain else {}


def facts_of(dataset: Dataset) -> dict[str, Any]:
    """Returns what tells one data set from another, ready for JSON."""
    inputs = dataset.train.inputs
    return {
        "shape": list(inputs.shape[1:]),
        "dtype": str(inputs.dtype),
        "num_classes": dataset.num_classes,
        "task": dataset.task,
        "num_domains": dataset.num_domains,
        "num_train": len(dataset.train.labels),
        "num_test": len(dataset.test.labels),
        "classes": dataset.classes and list(dataset.classes),
        "files": dataset.files,
    }


def write_data(workdir: Path, dataset: Dataset) -> None:
    """Writes what `load_trained` has to know of a data set.

    Raises:
        ConfigError: if the run that is resumed had another.
    """
    found, path = facts_of(dataset), workdir / DATA
    if path.exists():
        old = json.loads(path.read_text())
        for name in sorted(old.keys() & found.keys()):
            if old[name] != found[name]:
                raise ConfigError(
                    f"--workdir is {workdir}, whose run had data with {name} "
                    f"{shown(old[name])}, not {shown(found[name])}; bring back that "
                    "data, or choose another workdir"
                )
    numbers = {"mean": dataset.mean.tolist(), "std": dataset.std.tolist()}
    write_json(path, found | numbers)


def load_trained(
    workdir: str | os.PathLike[str],
    *,
    norm: str | None = None,
    step: int | None = None,
    averaged: bool = False,
) -> Trained:
    """Returns the network that a run of `train.py` left in `workdir`.

    Every array is compared with the digest that it was written with. The data set is
    not needed.

    Args:
        workdir: of the run.
        norm: of the arm; the first of the run by default.
        step: of the checkpoint; by default the best, which the run keeps besides the
            newest.
        averaged: whether to take the averaged weights of a run with `average_decay`.
            The running statistics are those of the trained weights; measure their own
            with `jaxbn.population.precise_batch_stats`.

    Raises:
        ValueError: if there is no such run, arm or checkpoint, or it is damaged; what
            there is is listed.

    Example:
        >>> load_trained('runs/none')
        Traceback (most recent call last):
            ...
        ValueError: workdir is runs/none, which has no config.json and data.json, ...
    """
    check_flags(averaged=averaged)
    if not isinstance(workdir, str | os.PathLike):
        raise ValueError(f"workdir is {shown(workdir)}, expected the path of a folder")
    workdir = Path(workdir)
    config, data = (_read_json(workdir, name) for name in ("config.json", DATA))
    config["norm_options"] = tuple(config["norm_options"])
    try:
        config = TrainConfig(**config)
    except TypeError as error:
        raise ValueError(
            f"{workdir / 'config.json'} is not of this version of jaxbn ({error}); "
            "load it with the version in environment.json"
        ) from None
    norm = config.norms[0] if norm is None else norm
    if norm not in config.norms:
        raise ValueError(
            f"norm is {shown(norm)}, expected one of {', '.join(config.norms)}, which "
            f"{workdir} was trained with"
        )
    found = _read(workdir, step)
    state = found.states[norm]
    sizes = {key: data[key] for key in ("num_classes", "num_domains")}
    model = create_network(config, norm, **sizes)
    params = averaged_of(state, workdir) if averaged else state["params"]
    variables = variables_of(params, state["batch_stats"])
    variables = jax.tree.map(jnp.asarray, variables)
    return Trained(model, variables, config, norm, int(state["step"]), data)


def averaged_of(state: Any, workdir: Path) -> Any:
    """Returns the averaged weights in the state of an arm.

    Raises:
        ValueError: if the run kept none.
    """
    kept = state["opt_state"]
    if not isinstance(kept, dict) or "average" not in kept:
        raise ValueError(
            f"averaged is True, but {workdir} kept no averaged weights; train with "
            "--average_decay=0.999"
        )
    return kept["average"]


def _read_json(workdir: Path, name: str) -> dict[str, Any]:
    try:
        return json.loads((workdir / name).read_text())
    except (OSError, ValueError):
        raise ValueError(
            f"workdir is {workdir}, which has no config.json and {DATA}, expected the "
            "folder of a run of train.py"
        ) from None


def _read(workdir: Path, step: int | None) -> Checkpoint:
    """Returns the checkpoint of a step, or the best."""
    folder = workdir / "checkpoints"
    steps = stored_steps(folder)
    like = Checkpoint({}, {}, {}, {})  # Of any structure.
    if not steps or (step is not None and step not in steps):
        there = f"those of steps {steps}" if steps else "none"
        raise ValueError(
            f"step is {shown(step)}, but the checkpoints in {folder} are {there}"
        )
    wanted = steps[-1] if step is None else step
    found = read_checkpoint(folder / f"{PREFIX}{wanted:08d}", like)
    if step is None and isinstance(found, Checkpoint):
        best = found.record.get("best", {}).get("step", wanted)
        if best != wanted and best in steps:
            return _read(workdir, best)
    if isinstance(found, str):
        raise ValueError(
            f"the checkpoint of step {wanted} in {folder} is damaged ({found}); pass "
            f"another step of {steps}"
        )
    return found
