"""Runs injections and records what came out; see `tests.injections`."""

import argparse
import concurrent.futures
import datetime
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from platform import python_version
from typing import Any

from tests.injections import Injection, chosen, draw, table, totals

FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
ENVIRONMENT = {
    # Numbers that do not depend on how many threads there are, and quick starts.
    **{"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def main() -> int:
    """Runs the injections that are asked for; 1 if something was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.injections")
    parser.add_argument("--count", type=int, default=300, help="how many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of some of them")
    parser.add_argument("--kind", help="only those of a kind")
    parser.add_argument("--chosen", action="store_true", help="the dozen of CI")
    parser.add_argument("--out", type=Path, help="JSON to write, after every injection")
    parser.add_argument("--go_on", action="store_true", help="from what --out holds")
    parser.add_argument("--keep", action="store_true", help="the folders of lost ones")
    parser.add_argument("--table", type=Path, help="print that of a JSON, and no more")
    given = parser.parse_args()
    if given.table:
        print(table(json.loads(given.table.read_text())))
        return 0
    plan = [draw(given.seed, i) for i in given.only or range(given.count)]
    if given.chosen:
        plan = chosen(given.seed)
        plan = [i for i in plan if given.only is None or i.index in given.only]
    plan = [i for i in plan if given.kind in (None, i.kind)]
    folder = Path(tempfile.mkdtemp(prefix="jaxbn-injections-"))
    os.environ.update(ENVIRONMENT)
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_optimization_level" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {FAST}".strip()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "programs"))
    record: dict[str, Any] = {"seed": given.seed, "seconds": 0, "injections": []}
    if given.go_on and given.out and given.out.exists():
        record = json.loads(given.out.read_text())
        if record["seed"] != given.seed:
            parser.error(f"{given.out} is of seed {record['seed']}")
    # What was lost is tried again: something may have been mended since.
    kept = [entry for entry in record["injections"] if entry["outcome"] != "lost"]
    record["injections"] = kept
    done = {entry["index"] for entry in record["injections"]}
    plan = [injection for injection in plan if injection.index not in done]
    try:
        run_all(plan, folder, record, given)
    finally:
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{table(record)}")
    return int(any(counts["lost"] for counts in record["totals"].values()))


def run_all(
    plan: list[Injection],
    folder: Path,
    record: dict[str, Any],
    given: argparse.Namespace,
) -> None:
    """Adds the injections to a record, each said and written as it ends."""
    from tests.injections._space import enter_namespace

    no_mounts = enter_namespace()  # Before there are threads, which would not be in it.
    import jax

    from tests.injections._run import run_one
    from tests.injections._stage import Stage

    before, began = record["seconds"], time.monotonic()
    entries = record["injections"]
    stage = Stage(folder)
    try:
        with concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
            work = [pool.submit(run_one, stage, i, no_mounts, given.keep) for i in plan]
            for number, future in enumerate(concurrent.futures.as_completed(work), 1):
                entry = future.result()
                entries.append(entry)
                print(line_of(entry, number, len(plan)), flush=True)
                record["seconds"] = before + round(time.monotonic() - began)
                record["jax"], record["python"] = jax.__version__, python_version()
                note(record, given.out)
    finally:
        stage.close()
    note(record, given.out)


def note(record: dict[str, Any], out: Path | None) -> None:
    """Brings a record up to date, and writes it."""
    record["injections"].sort(key=lambda entry: entry["index"])
    record["date"] = datetime.date.today().isoformat()
    record["count"] = len(record["injections"])
    record["totals"] = totals(record["injections"])
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(as_text(record))


def line_of(entry: dict[str, Any], number: int, count: int) -> str:
    """Returns what is printed of an injection."""
    head = f"{number}/{count}  {entry['index']:>3} {entry['kind']:<22}"
    return f"{head} {entry['outcome']:<9} {entry['seconds']:>5.1f} s  {entry['said']}"


def as_text(record: dict[str, Any]) -> str:
    """Returns the record as JSON with an injection a line."""
    head = {key: value for key, value in record.items() if key != "injections"}
    lines = ",\n".join(f"    {json.dumps(entry)}" for entry in record["injections"])
    text = json.dumps(head, indent=2).removesuffix("\n}")
    return f'{text},\n  "injections": [\n{lines}\n  ]\n}}\n'


if __name__ == "__main__":
    sys.exit(main())
