"""The distributions, built and installed as users would, away from this clone.

    python -m tests.wheel --pythons python3.11 python3.12 python3.13 [--keep FOLDER]

A clean clone makes the sdist, the sdist the wheel. For each Python a fresh environment
takes the wheel and runs the first example of the README and `jaxbn doctor`; then the
extra `train`, and a training run of one epoch. Prints a table of seconds; the first
failure ends it. Needs a package registry. A step of the release (CONTRIBUTING.md).
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
STEPS = ("install", "first example", "doctor", "install [train]", "jaxbn train")


def seconds_of(command: list[str], folder: Path) -> float:
    """Runs a command outside of the clone; what it said is shown if it fails."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr}")
    return time.perf_counter() - began


def build(folder: Path) -> Path:
    """Returns the wheel, made from the sdist of a clean clone."""
    clone = folder / "clone"
    seconds_of(["git", "clone", "-q", str(ROOT), str(clone)], folder)
    seconds_of([sys.executable, "-m", "hatchling", "build", "-t", "sdist"], clone)
    (sdist,) = (clone / "dist").glob("*.tar.gz")
    make = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", str(sdist)]
    seconds_of(make, folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def first_example() -> str:
    """Returns the first Python block of the README."""
    text = (ROOT / "README.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]


def try_python(python: str, wheel: Path, folder: Path) -> list[float]:
    """Returns the seconds of each of the steps."""
    home = folder / Path(python).name
    seconds_of([python, "-m", "venv", str(home)], folder)
    ours, pip = str(home / "bin/python"), str(home / "bin/pip")
    command = str(home / "bin/jaxbn")
    away = home / "away"
    away.mkdir()
    return [
        seconds_of([pip, "install", "-q", str(wheel)], away),
        seconds_of([ours, "-c", first_example()], away),
        seconds_of([command, "doctor"], away),
        seconds_of([pip, "install", "-q", f"{wheel}[train]"], away),
        seconds_of([command, "train", "--num_epochs=1", "--workdir=run"], away),
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pythons", nargs="+", default=[sys.executable])
    parser.add_argument("--keep", type=Path, help="where to work, instead of /tmp")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        wheel = build(folder)
        print(f"{wheel.name}, {wheel.stat().st_size / 1e3:.0f} kB\n")
        print("| Python |", " | ".join(STEPS), "|")
        print("|---" * (len(STEPS) + 1) + "|")
        for python in options.pythons:
            took = try_python(python, wheel, folder)
            print(
                f"| {Path(python).name} |", " | ".join(f"{s:.0f} s" for s in took), "|"
            )


if __name__ == "__main__":
    main()
