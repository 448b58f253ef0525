"""The record of many injections as a table."""

from typing import Any

from tests.injections._plan import KINDS

OUTCOMES = ("recovered", "unharmed", "refused", "lost", "skipped")

Entry = dict[str, Any]


def totals(entries: list[Entry]) -> dict[str, dict[str, int]]:
    """Returns how often each kind came out how."""
    found: dict[str, dict[str, int]] = {}
    for kind in KINDS:
        mine = [entry["outcome"] for entry in entries if entry["kind"] == kind]
        if mine:
            found[kind] = {name: mine.count(name) for name in OUTCOMES}
    return found


def table(record: dict[str, Any]) -> str:
    """Returns a record in Markdown: kinds, how often tried, and what came out."""
    lines = [
        "| what happens | tried | ends bit for bit | refused in words | lost |",
        "|---|---|---|---|---|",
    ]
    sums = [0, 0, 0, 0]
    for kind, counts in record["totals"].items():
        same = counts["recovered"] + counts["unharmed"]
        tried = same + counts["refused"] + counts["lost"]
        numbers = [tried, same, counts["refused"], counts["lost"]]
        sums = [a + b for a, b in zip(sums, numbers, strict=True)]
        lines.append(f"| {kind} | {' | '.join(map(str, numbers))} |")
    lines.append(f"| all | {' | '.join(map(str, sums))} |")
    return "\n".join(lines)
