#!/usr/bin/env bash
# TensorStore's to_json keeps every string that it makes for as long as the process runs.
# Versions: tensorstore 0.1.86 and 0.1.75 (0.1.60 does the same with NumPy 1), orbax-checkpoint
#   0.12.8, NumPy 2.4.6, Python 3.11, Linux x86-64.
# Behaviour: each key and value of the dict that KvStore.Spec(...).to_json() returns has a
#   reference too many: 4 objects a call for a dict of two strings, and ts.Spec(...).to_json()
#   9. gc does not see it, since strings are not tracked. orbax calls it for every array of
#   a checkpoint: saving 40 small arrays leaves some 170 objects, 11 kB, each time; 2,000
#   checkpoints of a net with 40 arrays leave some 22 MB.
# Source: this script; tracemalloc named the call in a run of 2,000 checkpoints that grew.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
cat > "$folder/measure.py" <<'PY'
import gc
import sys

import tensorstore as ts


def kept(call, times=5000):
    call()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(times):
        call()
    gc.collect()
    return round((sys.getallocatedblocks() - before) / times)


store = ts.KvStore.Spec({"driver": "file", "path": "/tmp/a/folder/"})
array = ts.Spec({"driver": "zarr", "kvstore": {"driver": "memory", "path": "a/"}})
print(kept(store.to_json), kept(array.to_json), kept(lambda: dict(driver="file")))
PY
cat > "$folder/save.py" <<'PY'
import gc
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from orbax.checkpoint import v1 as ocp

arrays = {f"x{i}": np.zeros(4, np.float32) for i in range(40)}
folder = Path(tempfile.mkdtemp(dir=sys.argv[1]))
blocks = []
for i in range(40):
    ocp.save_checkpointables(folder / str(i), {"arrays": arrays})
    shutil.rmtree(folder / str(i))
    gc.collect()
    blocks.append(sys.getallocatedblocks())
print(round((blocks[-1] - blocks[19]) / 20))
PY
install() { "$folder/env/bin/pip" install -q "$@" "numpy==2.4.6" 2>/dev/null; }
for version in 0.1.75 0.1.86; do
  install "tensorstore==$version"
  found=$("$folder/env/bin/python" "$folder/measure.py")
  echo "tensorstore $version, objects kept a call (KvStore.Spec, Spec, a plain dict): $found"
  [ "$found" = "4 9 0" ]
done
install "orbax-checkpoint==0.12.8" "jax[cpu]==0.10.2" "tensorstore==0.1.86"
saved=$(JAX_PLATFORMS=cpu "$folder/env/bin/python" "$folder/save.py" "$folder" 2>/dev/null)
echo "orbax 0.12.8, objects kept for each of 40 arrays saved: $saved / 40"
[ "$saved" -ge 160 ] && [ "$saved" -le 200 ]
