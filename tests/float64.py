"""float64 and complex128, which are off by default."""

import contextlib

import jax


@contextlib.contextmanager
def double_precision():
    """Enables float64 and complex128, and gives float64 up again on the way out."""
    if hasattr(jax, "enable_x64"):  # jax >= 0.8
        enable = jax.enable_x64
    else:
        from jax.experimental import enable_x64 as enable
    with enable(True):
        yield
