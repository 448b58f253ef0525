#!/usr/bin/env bash
# ONNX Runtime: batch normalization in training mode whose statistics nobody reads.
# Versions: onnxruntime 1.32.0, onnx 1.23.2, Python 3.11 (CPU execution provider).
# Behaviour: a BatchNormalization node with training_mode=1 and all three outputs, of which
#   the graph returns only Y, and whose input_mean and input_var are initializers: Y is wrong,
#   and differs between identical calls of run, as if the running statistics were written over
#   the initializers. With momentum=1, with all outputs returned, or with the statistics as
#   inputs, Y is right (within 1e-5).
# Source: ONNX's definition of BatchNormalization (opset 15); microsoft/onnxruntime issue
#   29790 reports a wrong Y; this script for the change from call to call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy
"$folder/env/bin/python" - <<'PY'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

x = np.random.default_rng(0).normal(1, 2, (2, 4, 3)).astype(np.float32)
mean, var = x.mean((0, 2)), x.var((0, 2))
expected = (x - mean[:, None]) / np.sqrt(var[:, None] + 1e-5)
held = {"scale": 1, "B": 0, "input_mean": 0, "input_var": 1}
held = {name: np.full(4, value, np.float32) for name, value in held.items()}
outputs = ["Y", "running_mean", "running_var"]


def info(name):
    shape = [2, 4, 3] if name in ("X", "Y") else [4]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def errors(returned, as_weights, momentum):
    """Returns how wrong Y is in three calls alike."""
    options = {"training_mode": 1, "momentum": momentum}
    node = helper.make_node("BatchNormalization", ["X", *held], outputs, **options)
    inputs = ["X"] if as_weights else ["X", *held]
    weights = [numpy_helper.from_array(a, n) for n, a in held.items()] if as_weights else []
    graph = helper.make_graph(
        [node], "g", [*map(info, inputs)], [*map(info, returned)], weights
    )
    opset = helper.make_opsetid("", 15)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    on = {"providers": ["CPUExecutionProvider"]}
    session = onnxruntime.InferenceSession(model.SerializeToString(), **on)
    given = {"X": x} if as_weights else {"X": x, **held}
    return [float(abs(session.run(None, given)[0] - expected).max()) for _ in range(3)]


wrong = errors(["Y"], True, 0.9)
print("only Y, statistics as weights:", [f"{error:.2f}" for error in wrong])
assert min(wrong) > 0.1 and len({round(error, 2) for error in wrong}) == 3
for case in ((["Y"], True, 1.0), (outputs, True, 0.9), (["Y"], False, 0.9)):
    right = errors(*case)
    print(case, [f"{error:.1e}" for error in right])
    assert max(right) < 1e-5
PY
