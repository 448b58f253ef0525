"""What was run, added up from the reports of tests, whichever process ran them."""

from collections.abc import Iterable
from typing import Any


def note(record: Any, law: str, ran: list, seconds: float) -> None:
    """Adds what a test ran to its report, by pytest's `record_property`."""
    record("law", law)
    record("examples", len(ran))
    record("programs", sorted({repr(program) for program in ran}))
    record("seconds", round(seconds, 2))


def tally(reports: Iterable) -> dict[str, dict]:
    """Returns for each law its examples, programs, seconds and failures.

    Args:
        reports: of pytest, of any tests.
    """
    laws: dict[str, dict] = {}
    for report in reports:
        found = dict(report.user_properties)
        if report.when != "call" or "programs" not in found:
            continue
        start = {"examples": 0, "programs": set(), "seconds": 0.0, "failures": []}
        law = laws.setdefault(found["law"], start)
        law["examples"] += found["examples"]
        law["programs"] |= set(found["programs"])
        law["seconds"] += found["seconds"]
        if report.failed:
            law["failures"].append(failure_of(str(report.longrepr)))
    return laws


def failure_of(text: str) -> str:
    """Returns of a failure the message and the case that was shrunk."""
    lines = [line[2:].strip() for line in text.splitlines() if line.startswith("E ")]
    return " ".join(line for line in lines if line)


def in_a_line(laws: dict[str, dict]) -> str:
    """Returns what `tally` found, for people."""
    examples = sum(law["examples"] for law in laws.values())
    programs = set().union(*(law["programs"] for law in laws.values()))
    failed = sum(bool(law["failures"]) for law in laws.values())
    broken = f", {failed} of them broken" if failed else ""
    return (
        f"properties: {examples:,} examples of {len(laws)} laws{broken}, "
        f"{len(programs):,} programs"
    )
