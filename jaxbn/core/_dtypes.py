"""Dtypes: what statistics are computed in, and what may be normalized at all.

Half precision holds 11 (float16) or 8 (bfloat16) significant bits: fine for an
activation, useless for a sum over a batch. Statistics are computed in at least
float32, whatever the input; only the output returns to the dtype of the input.
"""

import jax.numpy as jnp
import numpy as np

from jaxbn.base import Array, DType


def stats_dtype(dtype: DType) -> np.dtype:
    """Returns the dtype of sums and means over data of `dtype`: float32 or wider.

    Example:
        >>> import jax.numpy as jnp
        >>> stats_dtype(jnp.bfloat16), stats_dtype(jnp.complex64)
        (dtype('float32'), dtype('complex64'))
    """
    return jnp.promote_types(dtype, jnp.float32)


def real_dtype(dtype: DType) -> np.dtype:
    """Returns the dtype of variances and counts over data of `dtype`: always real."""
    return np.zeros((), stats_dtype(dtype)).real.dtype


def as_inexact(x: object) -> Array:
    """Returns `x` as an array of a floating or complex dtype.

    Raises:
        ValueError: if `x` holds integers or booleans.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise ValueError(
            f"x has dtype {x.dtype}, expected a floating or complex dtype; cast it, "
            "for example x.astype(jnp.float32) / 255 for images"
        )
    return x


def real_dot(a: Array, b: Array) -> Array:
    """Returns `Re(conj(a) * b)` element by element, plainly `a * b` for real arrays."""
    if jnp.issubdtype(a.dtype, jnp.complexfloating):
        return jnp.real(a) * jnp.real(b) + jnp.imag(a) * jnp.imag(b)
    return a * b
