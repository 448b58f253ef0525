"""Split norm: parts of a batch that come from elsewhere have statistics of their own.

AdvProp trains on clean and adversarial examples at once and normalizes each with its
own kind: a domain norm whose domains are known by their place in the batch.
"""

from typing import Any, Literal

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxbn._values import as_array, is_count, shown
from jaxbn.base import Array, Norm, Params, State
from jaxbn.core import feature_axes
from jaxbn.core._checks import check_switch
from jaxbn.variants._domain import domain_norm, parts_by_domain


def split_norm(
    norm: Norm,
    *,
    num_splits: int = 2,
    affine: Literal["shared", "per_domain"] = "per_domain",
) -> Norm:
    """Returns `norm` with auxiliary statistics for the later parts of a batch.

    In training the batch is cut along its examples into `num_splits` equal parts; the
    first is the main one. Each part has its state, and by default its scale and bias,
    as in AdvProp and timm's SplitBatchNorm. In evaluation everything is normalized as
    the main part.

    Args:
        norm: any `Norm` that masks exactly.
        num_splits: how many parts.
        affine: as in `domain_norm`.

    Returns:
        A `Norm`; its state and parameters are those of `domain_norm`. `apply` takes
        `domain` too, which says otherwise.

    Raises:
        ValueError: as `domain_norm`; in `apply` if the parts cannot be equal.

    Example:
        >>> from jaxbn.core import batch_norm
        >>> norm = split_norm(batch_norm(momentum=0.0))
        >>> params, state = norm.init(1)
        >>> x = jnp.array([[0.0], [2.0], [10.0], [14.0]])
        >>> _, state = norm.apply(params, state, x, True)
        >>> state['mean'].ravel()
        Array([ 1., 12.], dtype=float32)

    References:
        Xie et al., Adversarial examples improve image recognition, 2020, section 4.
        https://arxiv.org/abs/1911.09665
    """
    if not is_count(num_splits):
        raise ValueError(
            f"num_splits is {shown(num_splits)}, expected an int from 1 on; it is how "
            "many parts there are"
        )
    pair = domain_norm(num_splits, norm, affine=affine)
    by_domain = parts_by_domain(norm, num_splits)

    def place(x: Array, train: bool, domain: ArrayLike | None) -> ArrayLike:
        if domain is not None:
            return domain
        return _places(x, norm, num_splits) if train else 0

    def apply(
        params: Params,
        state: State,
        x: ArrayLike,
        train: bool,
        *,
        domain: ArrayLike | None = None,
        **overrides: Any,
    ) -> tuple[Array, State]:
        train = check_switch("train", train)
        domain = place(as_array("x", x), train, domain)
        return pair.apply(params, state, x, train, domain=domain, **overrides)

    def parts(
        x: Array, train: bool, *, domain: ArrayLike | None = None, **overrides: Any
    ) -> Array:
        return by_domain(x, train, domain=place(x, train, domain), **overrides)

    return pair._replace(apply=apply, parts=parts)


def _places(x: Array, norm: Norm, num_splits: int) -> Array:
    """Returns the part of each example, [N]."""
    features = feature_axes(norm.axis, x.ndim)
    examples = next((n for a, n in enumerate(x.shape) if a not in features), 1)
    if examples % num_splits:
        raise ValueError(
            f"x has {examples} examples, expected a multiple of num_splits, "
            f"{num_splits}; pass domain=... for parts of other sizes, or name a "
            f"symbolic dimension as a multiple, such as '{num_splits}*k'"
        )
    return jnp.repeat(jnp.arange(num_splits), examples // num_splits)
