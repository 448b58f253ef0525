"""The report: every result of a workdir on one page, in HTML and in Markdown.

The HTML holds its pictures and needs no other file; the Markdown points to them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxbn.experiments._page import as_html
from jaxbn.experiments._records import read_record
from jaxbn.experiments._registry import EXPERIMENTS
from jaxbn.experiments._results import FIGURE, NUMBERS, TABLE, markdown
from jaxbn.experiments._sentences import (
    INTRODUCTION,
    Found,
    changed,
    conditions,
    counted,
    facts,
    not_held,
    summary,
    unseen,
)
from jaxbn.training._files import write_text

COLUMNS = ("experiment", "claim", "verdict", "p", "quantity, interval and bound")
COLUMNS += ("where the bound comes from", "source's own")


def write_report(workdir: Path) -> tuple[str, list[str]]:
    """Writes report.html and results.md; returns what to print, and who is left out.

    Args:
        workdir: with a folder for each experiment that was run.

    Raises:
        ValueError: if there is none whose results can be shown.
    """
    found, left_out = collect(workdir)
    reasons = [f"{name} is left out: {why}" for name, why in left_out.items()]
    if not found:
        said = (
            f"no results in {workdir}, expected folders such as "
            f"{next(iter(EXPERIMENTS))}/{NUMBERS}; run an experiment or all of them"
        )
        raise ValueError("\n".join([*reasons, said]))
    write_text(workdir / "report.html", as_html(workdir, found, left_out))
    write_text(workdir / "results.md", as_markdown(workdir, found, left_out))
    said = f"{len(found)} experiments: {counted(found)}; {workdir / 'report.html'}"
    return said, reasons


def collect(workdir: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Returns the results of a workdir, and why others cannot be on its page."""
    found, left_out = {}, {}
    for name in EXPERIMENTS:
        try:
            record = complete(name, workdir / name)
            if record:
                as_markdown(workdir, {name: record})  # Whether it can be shown.
                as_html(workdir, {name: record})
                found[name] = record
        except Exception as error:  # Of any kind, from what others may have written.
            known = isinstance(error, ValueError)
            said = str(error) if known else f"{type(error).__name__}: {error}"
            left_out[name] = said.replace(f"{workdir}{os.sep}", "")
    return found, left_out


def complete(name: str, folder: Path) -> dict[str, Any] | None:
    """Returns the record of a result; None if there is none.

    Raises:
        ValueError: if it is not whole.
    """
    record = read_record(folder)
    if record is None:
        return None
    if record["experiment"] != name:
        raise ValueError(f"{folder} holds results of {record['experiment']}")
    if "shown_by" not in record:
        raise ValueError("of an earlier version, or not judged; `verify` makes it anew")
    for each in (TABLE, FIGURE):
        if not (folder / each).is_file():
            raise ValueError(f"{each} is missing; `verify` makes it anew")
    return record


def as_markdown(
    workdir: Path, found: Found, left_out: Mapping[str, str] | None = None
) -> str:
    """Returns the results as a page of Markdown beside their folders.

    Args:
        workdir: with these folders.
        found: records by experiment.
        left_out: experiments that cannot be on the page, and why.
    """
    rows = [
        (f"[{name}](#{name})", *cells(v))
        for name, result in found.items()
        for v in result["verdicts"]
    ]
    others = [f"- {outcome}: {c} ([{n}](#{n}))" for n, c, outcome in not_held(found)]
    changes = [f"- [{n}](#{n}), {claims}: {what}" for n, what, claims in changed(found)]
    parts = [
        "# Results",
        INTRODUCTION,
        conditions(found),
        f"{len(found)} experiments, {len(rows)} claims: {counted(found)}.",
        markdown(COLUMNS, rows),
        "## Refuted and undecided",
        "\n".join(others) or "None.",
        "## Changed after results had been seen",
        unseen(found),
        "\n".join(changes) or "Nothing.",
    ]
    for name, result in found.items():
        table = (workdir / name / TABLE).read_text().split("\n\n")[0]
        parts += [f"## {name}", f"{summary(name)}. Source: {result['source']}."]
        parts += [f"![{summary(name)}]({name}/{FIGURE})", table, f"*{facts(result)}*"]
    if left_out:
        parts += ["## Left out"]
        parts += ["\n".join(f"- {name}: {why}" for name, why in left_out.items())]
    return "\n\n".join(parts) + "\n"


def cells(verdict: dict[str, Any]) -> tuple[str, ...]:
    """Returns what the table says of a verdict."""
    before = (verdict["claim"], verdict["outcome"], f"{verdict['p']:.2g}")
    return (*before, *(verdict[key] for key in ("numbers", "chosen", "source")))
