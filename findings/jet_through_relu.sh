#!/usr/bin/env bash
# jax.experimental.jet through functions with a derivative of their own.
# Versions: jax 0.10.2, Python 3.11 (CPU).
# Behaviour: jet of jax.nn.relu or jax.nn.softplus, which have a custom JVP, raises
#   UnexpectedTracerError; jax.numpy.maximum(x, 0), tanh and silu give Taylor coefficients.
#   jet of a function that names a value by checkpoint_name raises a bare KeyError('name').
# Source: this script; jet's tables of rules in jax/experimental/jet.py.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2
"$folder/env/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.jet import jet

x = jnp.array([-1.0, 0.5, 2.0])
functions = {
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
    "maximum": lambda x: jnp.maximum(x, 0),
    "tanh": jnp.tanh,
    "silu": jax.nn.silu,
    "named": lambda x: checkpoint_name(x * 2, "twice"),
}
found = {}
for name, function in functions.items():
    try:
        jet(function, (x,), ((jnp.ones(3), jnp.zeros(3)),))
        found[name] = "works"
    except Exception as error:
        found[name] = type(error).__name__
    print(f"{name}: {found[name]}")
assert found == {
    "relu": "UnexpectedTracerError",
    "softplus": "UnexpectedTracerError",
    "maximum": "works",
    "tanh": "works",
    "silu": "works",
    "named": "KeyError",
}
PY
