#!/usr/bin/env bash
# nnx.tabulate and public methods that return no JAX type.
# Versions: flax 0.12.8, jax 0.10.2, Python 3.11 (CPU).
# Behaviour: while it runs, nnx.tabulate replaces every public method of the modules it
#   meets, inherited ones too, by traced ones. A method that is called on the way and returns
#   something else than arrays makes it raise TypeError. The replacements are then left where
#   they are: another module of the same class, made afterwards, cannot be called any more.
# Source: flax/nnx/summary.py (tabulate, _overwrite_methods), and this script.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q flax==0.12.8 jax==0.10.2 jaxlib==0.10.2
"$folder/env/bin/python" - <<'PY'
import jax.numpy as jnp
from flax import nnx


class Scaled(nnx.Module):
    def __init__(self):
        self.gain = nnx.Param(jnp.ones(3))

    def rule(self):
        """Which function is applied; a public helper."""
        return jnp.tanh

    def __call__(self, x):
        return self.rule()(x) * self.gain[...]


def outcome(function):
    try:
        return f"{function()}"
    except Exception as error:
        return type(error).__name__


x = jnp.ones((2, 3))
before = outcome(lambda: Scaled()(x).shape)
table = outcome(lambda: nnx.tabulate(Scaled(), x))
after = outcome(lambda: Scaled()(x).shape)
print(f"before: {before}\ntabulate: {table}\nafter: {after}")
assert (before, table) == ("(2, 3)", "TypeError"), "tabulate no longer raises"
assert after != before, "the class is as it was"
PY
