#!/usr/bin/env bash
# What: tensorboardX, the writer of TensorBoard event files that needs neither TensorFlow
#   nor PyTorch.
# Versions: tensorboardX 2.6.5, protobuf 6.33.5, numpy 2.3.5.
# Behaviour: `import tensorboardX` imports PyTorch where it is installed, before anything
#   is written and whatever is written. With torch 2.13 that is about 4.5 s at each start
#   of a JAX program on two cores. A stand-in of two lines takes torch's place here.
# Source: tensorboardX/writer.py and x2num.py import torch at the top, in a `try`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q tensorboardX==2.6.5 protobuf==6.33.5 numpy==2.3.5
mkdir "$folder/torch"
printf 'print("torch is imported")\nclass Tensor: ...\n' > "$folder/torch/__init__.py"
cd "$folder"
cat > write.py <<'EOF'
from tensorboardX import SummaryWriter

writer = SummaryWriter("events")
writer.add_scalar("loss", 0.5, 1)
writer.close()
print("written")
EOF
found=$(PYTHONPATH="$folder" "$folder/env/bin/python" write.py)
echo "$found"
[ "$found" = $'torch is imported\nwritten' ] || { echo "changed"; exit 1; }
# Output on 2026-11-30:
# torch is imported
# written
