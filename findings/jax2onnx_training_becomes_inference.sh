#!/usr/bin/env bash
# jax2onnx and batch norm in training mode.
# Versions: jax2onnx 0.17.1, flax 0.12.8, jax 0.10.2, onnxruntime 1.32.0, Python 3.11 (CPU).
# Behaviour: flax.nnx.BatchNorm and flax.linen.BatchNorm with use_running_average=False are
#   exported as the ONNX node in inference mode, which normalizes by the running statistics.
#   The outputs of the model differ by more than 1; there is a line in the log and no error.
# Source: this script.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q jax2onnx==0.17.1 flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 \
  onnxruntime==1.32.0
"$folder/env/bin/python" - <<'PY'
import jax
import numpy as np
import onnxruntime
from flax import linen, nnx
from jax2onnx import to_onnx

x = np.random.default_rng(0).normal(2, 3, (8, 5, 5, 4)).astype(np.float32)
module = linen.BatchNorm(use_running_average=False)
variables = module.init(jax.random.key(0), x)
models = {
    "nnx": lambda: nnx.BatchNorm(4, use_running_average=False, rngs=nnx.Rngs(0)),
    "linen": lambda: lambda x: module.apply(variables, x, mutable=["batch_stats"])[0],
}
for name, make in models.items():
    exported = to_onnx(make(), [x.shape]).SerializeToString()
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    error = float(abs(found - make()(x)).max())
    print(f"{name}: the largest difference is {error:.2f}")
    assert error > 1, "training mode is exported as such"
PY
