"""What starting costs: imports, and a training script that is only asked for help.

    python -m benchmarks.startup [--repeats N] [--json FILE]

Each in a process of its own, in turn; "beyond jax" is what `import jaxbn` adds to
`import jax`.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks._alone import Figures, markdown, run_alone

STARTS = {
    "import jax": ["-c", "import jax"],
    "import jaxbn": ["-c", "import jaxbn"],
    "import flax.linen": ["-c", "from flax import linen"],
    "import jaxbn.linen": ["-c", "import jaxbn.linen"],
    "train.py --help": ["train.py", "--help"],
}
HEAVY = ("flax", "matplotlib", "tensorflow_datasets", "sklearn", "orbax", "optax")
LOADED = f"import sys, jaxbn; print(*[m for m in {HEAVY} if m in sys.modules])"


def measure(repeats: int = 7) -> Figures:
    """Returns seconds by start, and which heavy modules `import jaxbn` loads."""
    root = Path(__file__).parents[1]
    taken: dict[str, list[float]] = {name: [] for name in STARTS}
    for turn in range(repeats + 1):
        for name, arguments in STARTS.items():
            began = time.perf_counter()
            command = [sys.executable, *arguments]
            subprocess.run(command, cwd=root, check=True, capture_output=True)
            if turn:
                taken[name].append(time.perf_counter() - began)
    found: Figures = {name: statistics.median(each) for name, each in taken.items()}
    alone = [sys.executable, "-c", LOADED]
    loaded = subprocess.run(alone, cwd=root, check=True, capture_output=True, text=True)
    found["loaded by import jaxbn"] = loaded.stdout.split()
    pairs = zip(taken["import jaxbn"], taken["import jax"], strict=True)
    found["beyond jax"] = statistics.median(ours - theirs for ours, theirs in pairs)
    return found


def table(figures: Figures) -> str:
    """Returns seconds by start."""
    rows = [[name, f"{figures[name]:.2f}"] for name in (*STARTS, "beyond jax")]
    loaded = ", ".join(figures["loaded by import jaxbn"]) or "none"
    heavy = f"Of {', '.join(HEAVY)}, `import jaxbn` loads {loaded}."
    return markdown(["start", "seconds"], rows) + "\n\n" + heavy


if __name__ == "__main__":
    run_alone(measure, table, __doc__)
