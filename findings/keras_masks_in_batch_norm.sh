#!/usr/bin/env bash
# Keras 3's BatchNormalization and masks.
# Versions: keras 3.15.1 on jax 0.10.2, numpy 2.4.6, Python 3.11 (CPU).
# Behaviour: with one channel a mask raises IndexError, and with axis=1 ValueError, though
#   both work without one. A batch that is masked whole is absorbed as of mean 0 and variance
#   0: twenty such batches at momentum 0.5 take the moving variance from 1 to 1e-6.
# Source: this script.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q keras==3.15.1 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
KERAS_BACKEND=jax KERAS_HOME="$folder" "$folder/env/bin/python" - <<'PY'
import numpy as np
from keras.layers import BatchNormalization


def outcome(shape, mask, **options):
    layer = BatchNormalization(**options)
    try:
        layer(np.ones(shape, np.float32), training=True, mask=mask)
        return "works"
    except Exception as error:
        return type(error).__name__


found = {
    "one channel": outcome((4, 1), None),
    "one channel, mask": outcome((4, 1), np.ones(4, bool)),
    "two channels, mask": outcome((4, 2), np.ones(4, bool)),
    "axis 1": outcome((4, 3, 5), None, axis=1),
    "axis 1, mask": outcome((4, 3, 5), np.ones((4, 5), bool), axis=1),
}
layer = BatchNormalization(momentum=0.5)
for _ in range(20):
    layer(np.ones((4, 2), np.float32), training=True, mask=np.zeros(4, bool))
var = np.asarray(layer.moving_variance)
print(found, "moving variance", var)
assert found == {
    "one channel": "works",
    "one channel, mask": "IndexError",
    "two channels, mask": "works",
    "axis 1": "works",
    "axis 1, mask": "ValueError",
}
assert (var < 2e-6).all()
PY
