"""What is written: results as they come, and the record in docs/reliability."""

import hashlib
import json
import platform
import time
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.mutation._equivalent import why_equivalent
from tests.mutation._mutants import Mutant, possible_mutants, sample
from tests.mutation._trial import ROOT, Result

KINDS = ("killed", "equivalent", "survived")


def read_possible(work: Path) -> dict[str, list[Mutant]]:
    """Returns all mutants of the library in `work`, found once."""
    file = work / "possible.json"
    if not file.exists():
        file.write_text(json.dumps(possible_mutants(work / "original")))
    found = json.loads(file.read_text())
    return {name: [Mutant(*one) for one in some] for name, some in found.items()}


def append_result(work: Path, mutant: Mutant, result: Result) -> None:
    """Writes what came of a mutant behind what came of others."""
    found = {"key": mutant.key, **result._asdict()}
    with (work / "results.jsonl").open("a") as file:
        file.write(json.dumps(found) + "\n")


def read_results(work: Path) -> dict[str, dict[str, Any]]:
    """Returns the last result of each mutant.

    With the seconds of all of them, and whether it passed all tests `at_first`.
    """
    path, found = work / "results.jsonl", {}
    for line in path.read_text().splitlines() if path.exists() else []:
        one = json.loads(line)
        before = found.get(one["key"], {"seconds": 0.0, "at_first": one["passed"]})
        one["seconds"] += before["seconds"]
        found[one["key"]] = {**one, "at_first": before["at_first"]}
    return found


def write(work: Path, size: int, seed: int) -> None:
    """Writes docs/reliability/mutants.json and mutants.md."""
    possible, results = read_possible(work), read_results(work)
    drawn = sample(work / "original", possible, size, seed)
    tried = [_described(m, results[m.key]) for m in sorted(drawn) if m.key in results]
    rows = {
        file: {
            "possible": len(mutants),
            "drawn": sum(mutant.file == file for mutant in drawn),
            "tried": sum(one["file"] == file for one in tried),
            **{kind: _count(tried, kind, file) for kind in KINDS},
        }
        for file, mutants in possible.items()
    }
    total = sum((Counter(row) for row in rows.values()), Counter())
    judged = total["killed"] + total["survived"]
    at_first = [m for m in drawn if results.get(m.key, {}).get("at_first")]
    late = sum(why_equivalent(m) is None for m in at_first) - total["survived"]
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "command": f"python -m tests.mutation run --sample {size} --seed {seed}",
        "library": _digest(work / "original"),
        "python": platform.python_version(),
        "jax": metadata.version("jax"),
        "cosmic-ray": metadata.version("cosmic-ray"),
        "seconds": round(sum(one["seconds"] for one in results.values())),
        "total": {key: total[key] for key in ("possible", "drawn", "tried", *KINDS)},
        "killed by tests written since it was first tried": late,
        "killed of those that are not equivalent": round(total["killed"] / judged, 3),
        "files": rows,
        "mutants": tried,
    }
    folder = ROOT / "docs" / "reliability"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False)
    (folder / "mutants.json").write_text(text + "\n")
    (folder / "mutants.md").write_text(as_markdown(record))
    print(record["total"], record["killed of those that are not equivalent"])


def as_markdown(record: dict[str, Any]) -> str:
    """Returns the record for people."""
    total, share = record["total"], record["killed of those that are not equivalent"]
    late = record["killed by tests written since it was first tried"]
    left = total["drawn"] - total["tried"]
    lines = [
        "# Mutants",
        "",
        f"Of {total['possible']} small changes of the library {total['drawn']} were "
        f"drawn and {total['tried']} tried: {total['killed']} are noticed by a test, "
        f"{total['equivalent']} change nothing that anybody could see, "
        f"{total['survived']} survived. That is {share:.1%} of those that are not "
        f"equivalent; {late} of the killed survived when they were first tried, and "
        f"tests were written, or more tests run, for them. {left} that were drawn "
        f"were not tried. `{record['command']}`, {record['date']}, "
        f"jax {record['jax']}, {record['seconds']} s; every one is in `mutants.json`.",
        "",
        "| file | possible | drawn | tried | killed | equivalent | survived |",
        "|---|---|---|---|---|---|---|",
    ]
    for file, row in record["files"].items():
        counts = (row[key] for key in ("possible", "drawn", "tried", *KINDS))
        lines.append(f"| `{file}` | {' | '.join(map(str, counts))} |")
    for kind in ("equivalent", "survived"):
        some = [one for one in record["mutants"] if one["outcome"] == kind]
        if some:
            lines += ["", f"## {kind.capitalize()}", ""]
        for one in some:
            why = f": {one['why']}" if "why" in one else ""
            lines.append(f"- `{one['file']}`, `{one['after']}`{why}")
    return "\n".join(lines) + "\n"


def _described(mutant: Mutant, result: dict[str, Any]) -> dict[str, Any]:
    why = why_equivalent(mutant) if result["passed"] else None
    outcome = "killed" if not result["passed"] else "equivalent" if why else "survived"
    found = {**mutant._asdict(), "outcome": outcome}
    if outcome == "killed":
        found["by"] = result["test"] or result["how"]
    return {**found, "why": why} if why else found


def _count(tried: list[dict[str, Any]], kind: str, file: str) -> int:
    return sum(one["outcome"] == kind and one["file"] == file for one in tried)


def _digest(root: Path) -> str:
    """Returns a digest of the library that was changed."""
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]
