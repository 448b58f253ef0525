"""Batch normalization for JAX and Flax: every answer to "what is the batch?".

    params, state = bn_init(num_features)
    y, state = bn_apply(params, state, x, train)

The face of the package: pure functions of arrays. Flax modules live in `jaxbn.linen`
and `jaxbn.nnx`, which are imported by those who use Flax. JAX is imported when the
first name is asked for, so that `jaxbn --help` is there at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxbn.base import Norm as Norm
    from jaxbn.core import Moments as Moments
    from jaxbn.core import batch_moments as batch_moments
    from jaxbn.core import batch_norm as batch_norm
    from jaxbn.core import bn_apply as bn_apply
    from jaxbn.core import bn_init as bn_init
    from jaxbn.core import keep_norm_inputs as keep_norm_inputs
    from jaxbn.core import merge_moments as merge_moments
    from jaxbn.core import normalize as normalize
    from jaxbn.core import reduce_moments as reduce_moments
    from jaxbn.core import resolve_groups as resolve_groups
    from jaxbn.core import update_running as update_running
    from jaxbn.variants import adaptive_norm as adaptive_norm
    from jaxbn.variants import apply_jointly as apply_jointly
    from jaxbn.variants import batch_renorm as batch_renorm
    from jaxbn.variants import domain_norm as domain_norm
    from jaxbn.variants import frozen_norm as frozen_norm
    from jaxbn.variants import ghost_norm as ghost_norm
    from jaxbn.variants import group_norm as group_norm
    from jaxbn.variants import instance_norm as instance_norm
    from jaxbn.variants import layer_norm as layer_norm
    from jaxbn.variants import no_norm as no_norm
    from jaxbn.variants import shuffle as shuffle
    from jaxbn.variants import shuffled as shuffled
    from jaxbn.variants import split_norm as split_norm
    from jaxbn.variants import standardize_kernel as standardize_kernel
    from jaxbn.variants import standardize_kernels as standardize_kernels
    from jaxbn.variants import unshuffle as unshuffle

__all__ = [
    "Moments",
    "Norm",
    "adaptive_norm",
    "apply_jointly",
    "batch_moments",
    "batch_norm",
    "batch_renorm",
    "bn_apply",
    "bn_init",
    "domain_norm",
    "frozen_norm",
    "ghost_norm",
    "group_norm",
    "instance_norm",
    "keep_norm_inputs",
    "layer_norm",
    "merge_moments",
    "no_norm",
    "normalize",
    "reduce_moments",
    "resolve_groups",
    "shuffle",
    "shuffled",
    "split_norm",
    "standardize_kernel",
    "standardize_kernels",
    "unshuffle",
    "update_running",
]
"""Without the modules, of which `linen` and `nnx` would hide those of Flax."""

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Returns a function of the face, imported from where it is written."""
    if name in __all__:
        for home in ("base", "core", "variants"):
            module = importlib.import_module(f"jaxbn.{home}")
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module 'jaxbn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
