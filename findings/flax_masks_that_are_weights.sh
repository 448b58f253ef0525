#!/usr/bin/env bash
# Flax: a mask with fractions, taken for weights, in linen's and in nnx's BatchNorm.
# Versions: flax 0.12.8, jax 0.10.2, Python 3.11 (CPU).
# Behaviour: linen takes a mask of any number type and casts it to bool; nnx raises ValueError
#   on one that is not bool. Both say in their docstrings that True is what counts. Statistics
#   that linen makes with the mask [0.5, 0, 2, 1] are those of [1, 0, 1, 1].
# Source: flax/linen/normalization.py and flax/nnx/nn/normalization.py, and this script.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q flax==0.12.8 jax==0.10.2 jaxlib==0.10.2
"$folder/env/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

x = jnp.array([[1.0, 2.0], [30.0, 60.0], [4.0, 1.0], [8.0, 5.0]])
mask = jnp.array([[0.5], [0.0], [2.0], [1.0]])
layer = linen.BatchNorm(use_running_average=False, momentum=0.0)
variables = layer.init(jax.random.key(0), x)
_, new = layer.apply(variables, x, mask=mask, mutable=["batch_stats"])
mean = np.asarray(new["batch_stats"]["mean"])
three = np.asarray(x)[[0, 2, 3]].mean(0)
print("linen, weights:", mean, "mean of the three:", three)
assert np.allclose(mean, three)


def outcome(mask):
    try:
        nnx.BatchNorm(2, momentum=0.0, rngs=nnx.Rngs(0))(x, mask=mask)
        return "works"
    except Exception as error:
        return type(error).__name__


found = {"weights": outcome(mask), "bool": outcome(mask > 0)}
print("nnx:", found)
assert found["weights"] == "ValueError"
PY
