"""Normalizations by name: what `--norm` accepts."""

from jaxbn.base import AxisName, Norm
from jaxbn.core import batch_norm

_NORMS = {"batch": batch_norm, "none": None}


def norm_names() -> tuple[str, ...]:
    """Returns the names that `create_norm` knows."""
    return tuple(_NORMS)


def create_norm(
    name: str,
    *,
    momentum: float,
    epsilon: float,
    axis_name: AxisName | None,
    normalization_batch_size: int | None,
) -> Norm | None:
    """Returns the normalization called `name`, None for 'none'.

    Args:
        name: one of `norm_names()`.
        momentum: the weight of the old running value.
        epsilon: added to the variance.
        axis_name: the axis of the devices that share a batch, or None.
        normalization_batch_size: how many examples are normalized together; None for
            all of them.
    """
    factory = _NORMS[name]
    if factory is None:
        return None
    return factory(
        momentum=momentum,
        epsilon=epsilon,
        axis_name=axis_name,
        normalization_batch_size=normalization_batch_size,
    )
