"""Normalizations by name: what `--norm` accepts, and `--norm_options` for them.

And the network of a run with one of them, the same in training and loaded again.
"""

import ast
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxbn import variants
from jaxbn.base import AxisName, Norm
from jaxbn.core import batch_norm
from jaxbn.models import create_model
from jaxbn.training._config import TrainConfig

_OF_BATCHES = ("momentum", "epsilon", "axis_name", "normalization_batch_size")
_OF_EXAMPLES = ("epsilon",)


def _shuffled(seed: int = 0, **options: Any) -> Norm:
    axis_name = options["axis_name"]
    return variants.shuffled(batch_norm(**options), axis_name=axis_name, seed=seed)


def _ghost(
    normalization_batch_size: int | None, axis_name: AxisName | None, **options: Any
) -> Norm:
    if normalization_batch_size is not None:
        options["size"] = normalization_batch_size
    return variants.ghost_norm(**options)


def _split(**options: Any) -> Norm:
    return variants.split_norm(batch_norm(**options))


def _domain(num_domains: int, affine: Any = "shared", **options: Any) -> Norm:
    return variants.domain_norm(num_domains, batch_norm(**options), affine=affine)


_NORMS: dict[str, tuple[Callable[..., Norm], tuple[str, ...]]] = {
    "batch": (batch_norm, _OF_BATCHES),
    "renorm": (variants.batch_renorm, _OF_BATCHES),
    "adaptive": (variants.adaptive_norm, _OF_BATCHES),
    "ghost": (_ghost, _OF_BATCHES),
    "shuffled": (_shuffled, _OF_BATCHES),
    "split": (_split, _OF_BATCHES),
    "domain": (_domain, (*_OF_BATCHES, "num_domains")),
    "frozen": (variants.frozen_norm, _OF_EXAMPLES),
    "group": (variants.group_norm, _OF_EXAMPLES),
    "instance": (variants.instance_norm, _OF_EXAMPLES),
    "layer": (variants.layer_norm, _OF_EXAMPLES),
}
"""Factories, and which of the options of a run they take."""


_FLAGS = {
    "momentum": "--bn_momentum",
    "epsilon": "--bn_epsilon",
    "normalization_batch_size": "--normalization_batch_size",
    "axis_name": "--num_devices",
    "num_domains": "--dataset=a+b",
}
"""Options that are those of a run, and the flags that set them."""

_OF_CALLS = {"mask", "adjust", "group_index", "use_running_average", "update_stats"}
"""Options of `bn_apply` that no flag can set."""


def norm_names() -> tuple[str, ...]:
    """Returns the names that `create_norm` knows."""
    return (*_NORMS, "none")


def parse_options(texts: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Returns the options of each norm named, from 'norm.option=value'.

    Raises:
        ValueError: on a text of another form, or of no such norm.

    Example:
        >>> parse_options(('ghost.size=8', 'renorm.r_max=2.0'))
        {'ghost': {'size': 8}, 'renorm': {'r_max': 2.0}}
    """
    options: dict[str, dict[str, Any]] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        name, dot, option = path.partition(".")
        if not (equals and dot and option) or name not in _NORMS:
            raise ValueError(
                f"--norm_options has {text!r}, expected NORM.OPTION=VALUE with one of "
                f"{', '.join(_NORMS)}; for example ghost.size=8"
            )
        try:
            options.setdefault(name, {})[option] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            raise ValueError(
                f"--norm_options has {text!r}, expected a Python literal behind =; "
                "quote strings"
            ) from None
    return options


def create_network(
    config: TrainConfig,
    name: str,
    *,
    num_classes: int,
    num_domains: int,
    axis_name: AxisName | None = None,
    normalization_batch_size: int | None = None,
) -> nn.Module:
    """Returns the network of a run with the norm called `name`.

    Args:
        config: of the run.
        name: of the norm.
        num_classes: 0 for regression.
        num_domains: of the data set.
        axis_name: as for `create_norm`.
        normalization_batch_size: likewise.
    """
    norm = create_norm(
        name,
        momentum=config.bn_momentum,
        epsilon=config.bn_epsilon,
        axis_name=axis_name,
        normalization_batch_size=normalization_batch_size,
        num_domains=num_domains,
        **parse_options(config.norm_options).get(name, {}),
    )
    dtype = jnp.dtype(config.dtype)
    return create_model(config.model, max(num_classes, 1), norm, dtype=dtype)


def create_norm(
    name: str,
    *,
    momentum: float,
    epsilon: float,
    axis_name: AxisName | None,
    normalization_batch_size: int | None,
    num_domains: int = 1,
    **options: Any,
) -> Norm | None:
    """Returns the normalization called `name`, None for 'none'.

    Args:
        name: one of `norm_names()`.
        momentum: the weight of the old running value.
        epsilon: added to the variance.
        axis_name: the axis of the devices that share a batch, or None.
        normalization_batch_size: how many examples are normalized together; None for
            all of them.
        num_domains: of the data set.
        **options: of the factory of that name.

    Raises:
        ValueError: on options that the norm does not have.
    """
    if name == "none":
        return None
    factory, takes = _NORMS[name]
    given = {
        "momentum": momentum,
        "epsilon": epsilon,
        "axis_name": axis_name,
        "normalization_batch_size": normalization_batch_size,
        "num_domains": num_domains,
    }
    return factory(**{key: given[key] for key in takes} | options)


def check_norm(name: str, options: dict[str, Any], **of_the_run: Any) -> Norm | None:
    """Returns the norm called `name`; refuses options that it has not, or lacks.

    Args:
        name: one of `norm_names()`.
        options: of that norm alone.
        **of_the_run: momentum, epsilon and the like, as `create_norm` takes them.

    Raises:
        ValueError: saying which, and the flag that sets it.
    """
    of_calls = sorted(set(options) & _OF_CALLS)
    if of_calls:
        raise ValueError(
            f"--norm_options sets {of_calls} of {name}, expected options of a layer; "
            "leave out what is passed at each call"
        )
    fixed = sorted(set(options) & set(_FLAGS))
    if fixed:
        raise ValueError(
            f"--norm_options sets {fixed} of {name}, expected what is the norm's own; "
            f"say {' '.join(_FLAGS[option] for option in fixed)} for all norms"
        )
    size = of_the_run["normalization_batch_size"]
    if name == "ghost" and size is None and not {"size", "num_groups"} & set(options):
        raise ValueError(
            "--norm has 'ghost' and nothing says how large its batches are; add "
            "--norm_options ghost.size=8, or --normalization_batch_size=8 for all norms"
        )
    try:
        return create_norm(name, **of_the_run, **options)
    except (ValueError, TypeError) as error:
        raise ValueError(f"--norm_options of {name}: {error}") from None
