"""All benchmarks: what there are, run, and the table of targets.

    python -m benchmarks                          lists them
    python -m benchmarks layer block [--runs 3]   runs some, or `all` of them
    python -m benchmarks --out DIR                the table of figures that lie in DIR

Each run is a process of its own; its figures are written to DIR/NAME-RUN.json, the
table to DIR/targets.md, and what can be drawn to DIR/NAME.png.
"""

import argparse
import functools
import importlib
import inspect
import json
import pkgutil
import platform
import subprocess
import sys
from pathlib import Path

import benchmarks
from benchmarks import _targets
from benchmarks._alone import Figures
from jaxbn.training._files import write_text, write_whole


def names() -> dict[str, str]:
    """Returns the benchmarks and the first line of what each says."""
    found = {}
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if not module.name.startswith("_"):
            doc = importlib.import_module(f"benchmarks.{module.name}").__doc__
            found[module.name] = (doc or "").splitlines()[0]
    return found


def figures_in(folder: Path) -> dict[str, list[Figures]]:
    """Returns the figures of all runs in a folder, by benchmark."""
    found: dict[str, list[Figures]] = {}
    for path in sorted(folder.glob("*-*.json")):
        name = path.stem.rpartition("-")[0]
        found.setdefault(name, []).append(json.loads(path.read_text()))
    return found


def draw(name: str, figures: Figures, path: Path) -> None:
    """Draws what a benchmark knows how to draw."""
    function = getattr(importlib.import_module(f"benchmarks.{name}"), "draw", None)
    if function is None:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    function(figures, figure.subplots())
    write_whole(path, functools.partial(figure.savefig, dpi=100))


def flags(name: str, given: argparse.Namespace) -> list[str]:
    """Returns the flags given that a benchmark knows."""
    measure = importlib.import_module(f"benchmarks.{name}").measure
    options = {
        k: getattr(given, k, None) for k in inspect.signature(measure).parameters
    }
    return [part for k, v in options.items() if v for part in (f"--{k}", str(v))]


def main() -> None:
    """Lists, or runs what is named and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="which; all for all of them")
    parser.add_argument("--runs", type=int, default=1, help="of each")
    parser.add_argument("--out", type=Path, help="where figures are written and read")
    parser.add_argument("--repeats", type=int, help="of each measurement in a run")
    parser.add_argument("--data_dir", help="prepared TFDS data, for training")
    parser.add_argument("--baseline", help="with an earlier build, called jaxbn_old")
    parser.add_argument("--seconds", type=int, help="that accelerator may take")
    given = parser.parse_args()
    known = names()
    if not given.names and given.out is None:
        for name, line in known.items():
            print(f"{name:11} {line}")
        return
    unknown = sorted(set(given.names) - {*known, "all"})
    if unknown:
        parser.error(f"no benchmarks {unknown}, expected some of {', '.join(known)}")
    chosen = known if "all" in given.names else given.names
    out = given.out or Path("benchmark-results")
    failed = []
    for name in chosen:
        for old in out.glob(f"{name}-*.json"):
            old.unlink()
    for run in range(1, given.runs + 1):
        for name in chosen:
            command = [sys.executable, "-m", f"benchmarks.{name}"]
            command += ["--json", str(out / f"{name}-{run}.json")]
            command += flags(name, given)
            print(f"\n## {name}, run {run} of {given.runs}\n", flush=True)
            if subprocess.run(command).returncode:
                failed.append(f"{name}, run {run}")
    found = figures_in(out)
    for name, runs in found.items():
        draw(name, runs[-1], out / f"{name}.png")
    targets = _targets.table(found)
    if found:
        write_text(out / "targets.md", targets + "\n")
    print(f"\n## targets, Python {platform.python_version()} on {platform.machine()}\n")
    print(targets)
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
