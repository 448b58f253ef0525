"""Flags, judged: what can be said of them alone is said before anything is loaded.

What needs the devices is said in `_parallel`, what needs the data in `_run`.
"""

import dataclasses
import difflib
import importlib.util
import math
import os
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_origin

import jax
import jax.numpy as jnp

from jaxbn._values import is_number, shown
from jaxbn.base import Norm
from jaxbn.core import resolve_groups
from jaxbn.data import dataset_names
from jaxbn.data._image_folder import is_image_folder
from jaxbn.models import create_model, model_names
from jaxbn.training._config import ConfigError, TrainConfig
from jaxbn.training._loggers import LOGGERS, logger_names
from jaxbn.training._norms import check_norm, norm_names, parse_options

_COUNTS = ("batch_size", "num_epochs", "eval_every", "checkpoint_every", "keep")
_COUNTS += ("precise_num_samples", "num_devices", "train_limit", "test_limit")
_COUNTS += ("normalization_batch_size", "num_processes", "image_size")
_RATES = ("weight_decay", "warmup_epochs", "bn_epsilon", "process_id", "seed")
_OLD_WEIGHTS = {
    "bn_momentum": "running statistics",
    "average_decay": "averaged weights",
    "momentum": "optimizer's average of gradients",
}


def check_config(config: TrainConfig) -> None:
    """Refuses values that have no meaning, in one line each that names the flag.

    Raises:
        ConfigError: saying what came, what was expected and what to do.
    """
    if not isinstance(config, TrainConfig):
        raise ConfigError(f"config is {shown(config)}, expected a TrainConfig")
    _check_types(config)
    _check_choices(config)
    _check_numbers(config)
    _check_norms(config)
    _check_processes(config)
    _check_sharing(config)
    _check_folders(config)
    _check_pictures(config)
    _check_loggers(config)


def _check_types(config: TrainConfig) -> None:
    """Refuses values of another type than the field's; the command line makes none."""
    for field in dataclasses.fields(config):
        value, kinds = getattr(config, field.name), _kinds_of(field.type)
        words = " or ".join(kind.__name__ for kind in kinds).replace("NoneType", "None")
        fits = isinstance(value, kinds) or (is_number(value) and float in kinds)
        if isinstance(value, bool) and bool not in kinds:
            fits = False
        if isinstance(value, tuple) and not all(isinstance(v, str) for v in value):
            fits, words = False, "a tuple of strings"
        if not fits:
            raise ConfigError(f"--{field.name} is {shown(value)}, expected {words}")


def _kinds_of(annotation: Any) -> tuple[type, ...]:
    """Returns the types of the values that a field may have."""
    if get_origin(annotation) is Literal:
        return (str,)
    if isinstance(annotation, UnionType):
        return tuple(kind for part in annotation.__args__ for kind in _kinds_of(part))
    return (get_origin(annotation) or annotation,)


def _check_choices(config: TrainConfig) -> None:
    """Refuses names that mean nothing."""
    _check_name("model", config.model, model_names())
    if not all(config.norms):
        raise ConfigError(
            f"--norm is {config.norm!r}, expected names with commas between them, such "
            "as batch,none"
        )
    for name in config.norms:
        _check_name("norm", name, norm_names())
    if len(set(config.norms)) != len(config.norms):
        raise ConfigError(f"--norm is {config.norm!r}, expected distinct names")
    for field in dataclasses.fields(config):
        choices = getattr(field.type, "__args__", ())
        if isinstance(field.default, str) and choices:
            _check_name(field.name, getattr(config, field.name), choices)
    if not all(part.strip() for part in config.dataset.split("+")):
        raise ConfigError(
            f"--dataset is {config.dataset!r}, expected a name, or names joined by +, "
            "such as mnist+usps"
        )


def _check_name(flag: str, name: Any, known: tuple[str, ...]) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    expected = f"expected one of {', '.join(known)}"
    raise ConfigError(f"--{flag} is {name!r}, {expected}{hint}")


def _check_numbers(config: TrainConfig) -> None:
    """Refuses numbers out of their range."""
    at_least = dict.fromkeys(_COUNTS, 1) | dict.fromkeys(_RATES, 0)
    for flag, least in at_least.items():
        value = getattr(config, flag)
        most = 2**31 if flag in (*_COUNTS, "bn_epsilon") else math.inf
        if value is not None and not least <= value < most:
            bound = f" and less than {most}" * (most <= value < math.inf)
            raise ConfigError(f"--{flag} is {value}, expected {least} or more{bound}")
    for flag, what in _OLD_WEIGHTS.items():
        value = getattr(config, flag)
        if value is not None and not 0 <= value < 1:
            raise ConfigError(
                f"--{flag} is {value}, expected a number from 0 to below 1: the weight "
                f"of the old value; at 1 the {what} would never move"
            )
    if not 0 <= config.label_smoothing <= 1:
        raise ConfigError(
            f"--label_smoothing is {config.label_smoothing}, expected a number from 0 "
            "to 1"
        )
    if not 0 < config.learning_rate < math.inf:
        raise ConfigError(f"--learning_rate is {config.learning_rate}, expected > 0")
    if config.seed >= 2**32:
        raise ConfigError(f"--seed is {config.seed}, expected less than 2**32")


def _check_norms(config: TrainConfig) -> None:
    """Refuses options that a norm does not have, or lacks."""
    try:
        options = parse_options(config.norm_options)
        for name in config.norms:
            own = options.get(name, {})
            norm = check_norm(name, own, **_of_the_run(config))
            if own:
                _check_fit(config, name, norm)
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from None
    unused = sorted(set(options) - set(config.norms))
    if unused:
        raise ConfigError(
            f"--norm_options has options of {unused}, expected some of --norm, "
            f"{config.norm!r}; add them there"
        )


def _of_the_run(config: TrainConfig) -> dict[str, Any]:
    """Returns what `create_norm` takes for all norms of a run, on one device."""
    return {
        "momentum": config.bn_momentum,
        "epsilon": config.bn_epsilon,
        "axis_name": None,
        "normalization_batch_size": config.normalization_batch_size,
        "num_domains": len(config.dataset.split("+")),
    }


def _check_fit(config: TrainConfig, name: str, norm: Norm | None) -> None:
    """Refuses a norm that does not fit into the model.

    The model is traced on made-up images, not run; its layers are the same for others.
    """
    images = jax.ShapeDtypeStruct((max(config.batch_size, 2), 32, 32, 3), jnp.float32)
    try:
        model = create_model(config.model, 10, norm)
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, True), images)
    except (ValueError, TypeError, AttributeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"--norm_options of {name}: {first}") from None


def _check_sharing(config: TrainConfig) -> None:
    """Refuses a batch that the devices asked for cannot share."""
    if config.num_devices is not None:
        check_sharing(config, config.num_devices)


def check_sharing(config: TrainConfig, num_devices: int) -> list[list[int]] | None:
    """Returns the groups of devices that are normalized together; None for all.

    Raises:
        ConfigError: if the devices cannot share the batch, or cannot form the
            normalization batch.
    """
    if config.batch_size % num_devices:
        raise ConfigError(
            f"--batch_size is {config.batch_size}, expected a multiple of the "
            f"{num_devices} devices that share it"
        )
    size = config.normalization_batch_size
    try:
        return resolve_groups(size, config.batch_size, num_devices)[1]
    except ValueError as error:
        raise ConfigError(f"--{error}") from None


def _check_processes(config: TrainConfig) -> None:
    """Refuses flags of processes that do not go together."""
    address, count = config.coordinator_address, config.num_processes
    index = config.process_id
    if (address, count, index) == (None,) * 3:
        return
    if address is None or count is None or index is None:
        raise ConfigError(
            "--coordinator_address, --num_processes and --process_id are "
            f"{address}, {count}, {index}, expected all three or none"
        )
    if index >= count:
        raise ConfigError(
            f"--process_id is {index}, expected less than --num_processes, {count}; "
            "they count from 0"
        )
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
        raise ConfigError(
            f"--coordinator_address is {address!r}, expected HOST:PORT of process 0, "
            "such as 10.0.0.1:1234"
        )


def _check_pictures(config: TrainConfig) -> None:
    """Refuses a size of images that have one, and a folder that is not named."""
    own = [part for part in config.dataset.split("+") if part in dataset_names()]
    if own and config.image_size is not None:
        raise ConfigError(
            f"--image_size is {config.image_size}, but {own[0]} has a size of its own; "
            "leave it out"
        )
    folders = [p for p in config.dataset.split("+") if is_image_folder(p)]
    if folders and config.data_dir is None:
        raise ConfigError(
            f"--dataset has {folders[0]}, a folder of pictures; pass the folder that "
            "holds train and val as --data_dir"
        )


def _check_loggers(config: TrainConfig) -> None:
    """Refuses loggers that are unknown or not installed."""
    for name in logger_names(config):
        package = LOGGERS[name].package
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:  # A folder of that name is none.
            raise ConfigError(
                f"--log_to is {config.log_to!r}, but {package} is not installed; pip "
                f"install {package}"
            )


def _check_folders(config: TrainConfig) -> None:
    """Refuses folders that are files, and those in which nothing may be written."""
    _check_folder("workdir", Path(config.workdir or "runs"), writable=True)
    read = any(part not in dataset_names() for part in config.dataset.split("+"))
    if read and config.data_dir is not None:
        _check_folder("data_dir", Path(config.data_dir))


def _check_folder(flag: str, folder: Path, writable: bool = False) -> None:
    places = (folder, *folder.absolute().parents)
    try:
        nearest = next(p for p in places if p.is_symlink() or p.exists())
    except OSError as error:
        raise ConfigError(f"--{flag} is {folder}: {error.strerror}") from None
    if nearest.is_symlink() and not nearest.exists():
        raise ConfigError(
            f"--{flag} is {folder}, but {nearest} is a link to nothing, expected a "
            "folder or a path at which one can be made"
        )
    if not nearest.is_dir():
        raise ConfigError(
            f"--{flag} is {folder}, but {nearest} is a file, expected a folder or a "
            "path at which one can be made"
        )
    if writable and not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(
            f"--{flag} is {folder}, but nothing may be written to {nearest}, expected "
            "a folder of your own"
        )
