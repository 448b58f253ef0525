"""Rematerialization: what a training step keeps of a norm, and what it computes again.

Two names mark what is worth keeping: the array that a norm is given, and the moments it
measured. All that follows, the normalized array and the activation made of it, is one
pass over the first that needs no sums, and cheaper to compute again than to keep.
"""

from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from jaxbn.base import Array
from jaxbn.core._arrays import is_jet
from jaxbn.core._moments import Moments

INPUT, MOMENTS = "batch_norm_input", "batch_norm_moments"


def named_input(x: Array) -> Array:
    """Returns `x`, known to policies as the input of a batch norm."""
    return x if is_jet(x) else checkpoint_name(x, INPUT)


def named_moments(moments: Moments) -> Moments:
    """Returns the moments, known to policies as such."""
    return Moments(*(checkpoint_name(field, MOMENTS) for field in moments))


def keep_norm_inputs(primitive: Any, *args: Any, **params: Any) -> Any:
    """Returns whether a result is the input of a batch norm: a `jax.checkpoint` policy.

    Of convolution, norm and activation it keeps the result of the first, where autodiff
    keeps that and the result of the last too. In a chain of these what is computed
    again is element-wise: no convolution, no sum of the norm, no collective. All that
    no norm follows is computed again as well; where that is dear (attention, a wide
    head), `jax.checkpoint_policies.save_from_both_policies` joins this to another one.
    `jax.checkpoint` matters where XLA keeps it apart, on GPUs and TPUs, or in the body
    of a scan; on CPUs it is merged back.

    Args:
        primitive: with what follows, as JAX calls a policy.
        args: abstract values.
        **params: of the primitive.

    Returns:
        Whether its result is kept, as JAX wants it said.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxbn.core import bn_apply, bn_init
        >>> params, state = bn_init(3)
        >>> def loss(params, x):
        ...     y, _ = bn_apply(params, state, jnp.sin(x), True)
        ...     return jnp.sum(jax.nn.relu(y) ** 2)
        >>> loss = jax.checkpoint(loss, policy=keep_norm_inputs)
        >>> gradients = jax.jit(jax.grad(loss))(params, jnp.ones((4, 3)))
    """
    keep = jax.checkpoint_policies.save_only_these_names(INPUT, MOMENTS)
    return keep(primitive, *args, **params)
