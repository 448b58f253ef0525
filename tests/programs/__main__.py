"""Runs the programs, or some of them; see `tests.programs`."""

import argparse
import os
import sys
from pathlib import Path

import flax
import jax

from tests import programs

FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def main() -> None:
    """Runs all programs, or those whose name has one of the words given."""
    parser = argparse.ArgumentParser(
        description=(programs.__doc__ or "").splitlines()[0]
    )
    parser.add_argument("words", nargs="*", help="of names; all programs without")
    parser.add_argument("--sources", type=Path, required=True, help="folder of clones")
    given = parser.parse_args()
    # Programs run once: half of the time goes to LLVM unless it is told to do less.
    os.environ.setdefault("XLA_FLAGS", FAST)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    rows = []
    for program in programs.PROGRAMS:
        if given.words and not any(word in program.name for word in given.words):
            continue
        rows.append(programs.run(program, given.sources))
        print(f"{program.name}, {program.source.repository}: {rows[-1].outcome}")
        print("\n".join(f"  {place}: now our layer" for place in rows[-1].changed))
        sys.stdout.flush()
        jax.clear_caches()
    print(f"\njax {jax.__version__}, flax {flax.__version__}\n\n{programs.table(rows)}")
    sys.exit(any(row.outcome == "differs" for row in rows))


if __name__ == "__main__":
    main()
