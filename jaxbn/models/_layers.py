"""What the models share: a normalization by name, and activations that can be seen."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

import jaxbn.linen
from jaxbn._values import as_array, as_dtype, check_flags, is_count, shown
from jaxbn.base import Array, Norm
from jaxbn.core._checks import check_norm


def as_input(
    model: Any, x: Any, train: Any, ndim: int | None, mask: Any, domain: Any
) -> Array:
    """Returns `x` in the dtype of a model; judges it, and the fields of the model.

    Raises:
        ValueError: naming the field, or what the array is.
    """
    fields = {name: getattr(model, name) for name in model.__dataclass_fields__}
    for name in ("num_outputs", "width"):
        if name in fields and not is_count(fields[name]):
            raise ValueError(
                f"{name} is {shown(fields[name])}, expected an int from 1 on"
            )
    for name in ("hidden", "features", "stages"):
        widths = fields.get(name, ())
        if not isinstance(widths, tuple) or not all(map(is_count, widths)):
            raise ValueError(
                f"{name} is {shown(widths)}, expected a tuple of ints from 1 on, one a "
                "layer or stage"
            )
    if fields["norm"] is not None:
        check_norm(fields["norm"])
    check_flags(
        train=train,
        **{k: fields[k] for k in ("bottleneck", "large_images") if k in fields},
    )
    dtype = as_dtype("dtype", fields["dtype"], "float32")
    x = as_array("x", x)
    if x.ndim != (ndim or max(x.ndim, 2)) or 0 in x.shape[1:]:
        what = f"rank {ndim}, [N, H, W, C]" if ndim else "rank 2 or more, [N, ...]"
        raise ValueError(
            f"x has shape {x.shape}, expected {what}; add an axis for examples"
        )
    for name, value in (("mask", mask), ("domain", domain)):
        examples = x.shape[:1]  # Whose length may be symbolic.
        shapes = (examples, ()) if name == "domain" else (examples,)
        if value is not None and jnp.shape(as_array(name, value)) not in shapes:
            raise ValueError(
                f"{name} has shape {jnp.shape(value)}, expected {examples}, one an "
                "example"
            )
    return x.astype(dtype)


def normalize(
    norm: Norm | None,
    name: str,
    x: Array,
    train: bool,
    mask: Array | None,
    domain: Array | None = None,
) -> Array:
    """Returns `x` normalized by a layer called `name`, or `x` where `norm` is None.

    To be called within a compact method; the layer belongs to its module.

    Args:
        norm: the normalization, or None.
        name: of the layer in the variables.
        x: [N, ..., C].
        train: whether the batch normalizes.
        mask: [N], true (or a weight) where an example counts.
        domain: [N] or [], of `domain_norm`; None for norms that have none.
    """
    if norm is None:
        return x
    if mask is not None:
        mask = jnp.reshape(jnp.asarray(mask), (-1,) + (1,) * (x.ndim - 2))
    layer = jaxbn.linen.Norm(norm, use_running_average=not train, name=name)
    told: dict[str, Any] = {} if domain is None else {"domain": domain}
    return layer(x, mask=mask, **told)


def relu(module: nn.Module, name: str, x: Array) -> Array:
    """Returns relu of `x`, which is sown as an intermediate called `name`.

    Sown values cost nothing unless the collection 'intermediates' is asked for.
    """
    module.sow("intermediates", name, x)
    return nn.relu(x)
