#!/usr/bin/env bash
# MLX's BatchNorm: which variance its running statistics absorb depends on the version.
# Versions: mlx 0.32.0 and 0.32.1 (CPU builds for Linux), Python 3.11.
# Behaviour: the running variance absorbs the biased variance of a batch with 0.32.0, and
#   n / (n - 1) of it with 0.32.1. For a batch of four elements that is a third more; weights
#   saved by one and trained on by the other mix the two. Training normalizes by the biased
#   one in both.
# Source: this script.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
cat > "$folder/measure.py" <<'PY'
import mlx.core as mx
import mlx.nn as nn
import numpy as np

mx.set_default_device(mx.cpu)
x = np.array([[1.0, 2.0], [3.0, -1.0], [4.0, 0.5], [8.0, 5.0]], np.float32)
layer = nn.BatchNorm(2, momentum=1.0)
layer(mx.array(x))
print(*(np.array(layer.running_var) / x.var(0)).round(4))
PY
measure() {
  "$folder/env/bin/pip" install -q "mlx[cpu]==$1" numpy
  "$folder/env/bin/python" "$folder/measure.py"
}
before=$(measure 0.32.0)
after=$(measure 0.32.1)
echo "running variance over the biased one: 0.32.0 $before, 0.32.1 $after"
[ "$before" = "1.0 1.0" ] && [ "$after" = "1.3333 1.3333" ]
