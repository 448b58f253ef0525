"""Models by name."""

import difflib
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxbn._values import shown
from jaxbn.base import DType, Norm
from jaxbn.models._convnet import ConvNet
from jaxbn.models._mlp import MLP, NarrowNet
from jaxbn.models._resnet import ResNet

_LARGE = functools.partial(ResNet, width=64, large_images=True)
_DEEP = functools.partial(_LARGE, bottleneck=True)
_MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "narrow": NarrowNet,
    "convnet": ConvNet,
    "resnet8": functools.partial(ResNet, stages=(1, 1, 1)),
    "resnet20": functools.partial(ResNet, stages=(3, 3, 3)),
    "resnet18": functools.partial(_LARGE, stages=(2, 2, 2, 2)),
    "resnet34": functools.partial(_LARGE, stages=(3, 4, 6, 3)),
    "resnet50": functools.partial(_DEEP, stages=(3, 4, 6, 3)),
    "resnet101": functools.partial(_DEEP, stages=(3, 4, 23, 3)),
    "resnet152": functools.partial(_DEEP, stages=(3, 8, 36, 3)),
}


def model_names() -> tuple[str, ...]:
    """Returns the names that `create_model` knows."""
    return tuple(_MODELS)


def create_model(
    name: str,
    num_outputs: int,
    norm: Norm | None,
    *,
    dtype: DType = jnp.float32,
    **options: object,
) -> nn.Module:
    """Returns the model called `name`, its variables yet to be initialized.

    Args:
        name: 'mlp' (784-64-128-10 on MNIST), 'narrow' (7 layers of 30), 'convnet',
            'resnet8' and 'resnet20' (32x32 images), and torchvision's 'resnet18',
            'resnet34', 'resnet50', 'resnet101' and 'resnet152' (224x224), for which
            `load_torch` takes weights.
        num_outputs: classes, or 1 for regression.
        norm: any `jaxbn.Norm`, or None for none.
        dtype: of the computation; parameters are float32 and so are the outputs.
        **options: fields of the model, such as `hidden` or `width`.

    Raises:
        ValueError: if no model has that name.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxbn import batch_norm
        >>> model = create_model('mlp', 10, batch_norm())
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 28, 28, 1)), False)
        >>> sum(p.size for p in jax.tree.leaves(variables['params']))
        60042
    """
    if not isinstance(name, str) or name not in _MODELS:
        near = difflib.get_close_matches(str(name), _MODELS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "pass one of them"
        raise ValueError(
            f"model is {shown(name)}, expected one of {', '.join(_MODELS)}; {hint}"
        )
    make: Any = _MODELS[name]
    fields = getattr(make, "func", make).__dataclass_fields__
    unknown = sorted(set(options) - set(fields))
    if unknown:
        raise ValueError(
            f"model {name!r} has no fields {unknown}, expected some of "
            f"{sorted(set(fields) - {'parent', 'name'})}; check the spelling"
        )
    return make(num_outputs=num_outputs, norm=norm, dtype=dtype, **options)
