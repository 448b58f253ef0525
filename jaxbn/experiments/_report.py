"""The report: every result of a workdir on one page, in HTML and in Markdown.

The HTML holds its pictures and needs no other file; the Markdown points to them.
"""

import base64
import html
import json
from pathlib import Path
from typing import Any

from jaxbn.experiments._registry import EXPERIMENTS, module_of
from jaxbn.experiments._results import FIGURE, NUMBERS, TABLE, markdown
from jaxbn.experiments._verdicts import OUTCOMES
from jaxbn.training._files import write_text

VERDICT = ("claim", "outcome", "numbers", "chosen", "source")
INTRODUCTION = """\
Each claim is a quantity of every seed, mostly a difference of two arms with the same
seed, and a bound. Its mean and 95 % confidence interval over seeds (Student's t) are
printed before the bound. A claim is *held* if the whole interval satisfies the bound,
*refuted* if none of it does, *undecided* else. The claims of an experiment are judged
together, with Holm's correction, so that an interval only just beyond its bound may
leave a claim undecided. Where a claim was undecided after 5 seeds and more were asked
for, all was run once more with 10, which is said below the table; no correction is made
for that second look.

Designs and bounds were chosen on the seeds 0 to 4, or in pilot runs of other code;
everything here was measured on the seeds from 100 on. Tables show means and standard
deviations over seeds. Made by `python -m jaxbn.experiments`, and held against today's
code by `python -m jaxbn.experiments verify`."""
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 62rem;
       padding: 1rem; color: #222; background: #fff; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 3rem; }
img { width: 100%; min-width: 44rem; max-width: 64rem; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; white-space: nowrap; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.6rem; text-align: left; }
li { margin: 0.3rem 0; overflow-wrap: anywhere; }
.badge { border-radius: 0.3rem; color: #fff; font-size: 0.8rem; padding: 0 0.4rem;
         white-space: nowrap; }
.held { background: #1a7f37; } .refuted { background: #b35900; }
.undecided { background: #666; }
small { color: #555; } a { color: #0550ae; }
"""


def write_report(workdir: Path) -> str:
    """Writes report.html and results.md; returns what to print.

    Args:
        workdir: with a folder for each experiment that was run.

    Raises:
        ValueError: if there is none.
    """
    there = {
        name: json.loads((workdir / name / NUMBERS).read_text())
        for name in EXPERIMENTS
        if (workdir / name / NUMBERS).exists()
    }
    if not there:
        raise ValueError(
            f"no results in {workdir}, expected folders such as "
            f"{next(iter(EXPERIMENTS))}/{NUMBERS}; run an experiment or all of them"
        )
    found = {name: result for name, result in there.items() if "shown_by" in result}
    if old := ", ".join(sorted(there.keys() - found.keys())):
        raise ValueError(
            f"results of an earlier version, or not judged, in {workdir}: {old}; "
            "`python -m jaxbn.experiments verify` makes them anew"
        )
    write_text(workdir / "report.html", as_html(workdir, found))
    write_text(workdir / "results.md", as_markdown(workdir, found))
    return f"{len(found)} experiments: {counted(found)}; {workdir / 'report.html'}"


def counted(found: dict[str, Any]) -> str:
    """Returns how many claims had each outcome, in words."""
    every = [v["outcome"] for result in found.values() for v in result["verdicts"]]
    return ", ".join(f"{every.count(outcome)} {outcome}" for outcome in OUTCOMES)


def summary(name: str) -> str:
    """Returns the first line of what an experiment says of itself."""
    return (module_of(name).__doc__ or "").splitlines()[0].rstrip(".")


def facts(result: dict[str, Any]) -> str:
    """Returns what a result was measured with, in words."""
    settings = result["settings"]
    seeds = result["seeds"]
    said = f"{settings['size']}, {len(seeds)} seeds from {seeds[0]}"
    return f"{said}, {result['seconds']:.0f} s, {result['date']}, {result['machine']}"


def as_markdown(workdir: Path, found: dict[str, Any]) -> str:
    """Returns the results as a page of Markdown beside their folders."""
    rows = [
        (f"[{name}](#{name})", *(v[key] for key in VERDICT))
        for name, result in found.items()
        for v in result["verdicts"]
    ]
    columns = ("experiment", "claim", "verdict", "quantity, interval and bound")
    columns += ("where the bound comes from", "source's own")
    changed = [
        f"- [{name}](#{name}), {v['claim']}: {v['changed']}"
        for name, result in found.items()
        for v in result["verdicts"]
        if v["changed"]
    ]
    parts = [
        "# Results",
        INTRODUCTION,
        f"{len(found)} experiments, {len(rows)} claims: {counted(found)}.",
        markdown(columns, rows),
        "## Changed after results had been seen",
        "The verdicts above are of seeds that were never used while choosing.",
        "\n".join(changed) or "Nothing.",
    ]
    for name, result in found.items():
        table = (workdir / name / TABLE).read_text().split("\n\n")[0]
        parts += [f"## {name}", f"{summary(name)}. Source: {result['source']}."]
        parts += [f"![{summary(name)}]({name}/{FIGURE})", table, f"*{facts(result)}*"]
    return "\n\n".join(parts) + "\n"


def as_html(workdir: Path, found: dict[str, Any]) -> str:
    """Returns the results as a page that needs no other file."""
    head = "".join(
        f"<li><a href='#{name}'>{name}</a>: {html.escape(summary(name))} "
        f"{''.join(tally(result))}</li>"
        for name, result in found.items()
    )
    sections = "".join(section(workdir, name, found[name]) for name in found)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>jaxbn: claims and verdicts</title><style>{STYLE}</style></head>"
        f"<body><h1>Batch norm: claims and verdicts</h1><ul>{head}</ul>{sections}"
        "</body></html>\n"
    )


def section(workdir: Path, name: str, result: dict[str, Any]) -> str:
    """Returns an experiment's part of the page."""
    picture = base64.b64encode((workdir / name / FIGURE).read_bytes()).decode()
    verdicts = "".join(
        f"<li>{badge(v['outcome'])} {html.escape(v['claim'])}<br>"
        f"<small>{html.escape(v['numbers'])}"
        + (f". Source: {html.escape(v['source'])}" if v["source"] else "")
        + "</small></li>"
        for v in result["verdicts"]
    )
    lines = (workdir / name / TABLE).read_text().split("\n\n")[0].splitlines()
    cells = [[c.strip() for c in line.strip("|").split(" | ")] for line in lines]
    body = "".join(table_row("td", row) for row in cells[2:])
    return (
        f"<h2 id='{name}'>{name}</h2><p>{html.escape(summary(name))}. "
        f"<small>{html.escape(result['source'])}</small></p><ul>{verdicts}</ul>"
        f"<div class='scroll'><img alt='{html.escape(summary(name))}' "
        f"src='data:image/png;base64,{picture}'></div>"
        f"<div class='scroll'><table>{table_row('th', cells[0])}{body}</table></div>"
        f"<p><small>{html.escape(facts(result))}</small></p>"
    )


def table_row(tag: str, cells: list[str]) -> str:
    """Returns a row of an HTML table."""
    cells = [html.escape(cell.replace("+-", "\u00b1")) for cell in cells]
    inner = "".join(f"<{tag}>{cell}</{tag}>" for cell in cells)
    return f"<tr>{inner}</tr>"


def tally(result: dict[str, Any]) -> list[str]:
    """Returns how many verdicts had each outcome, as coloured words."""
    found = [verdict["outcome"] for verdict in result["verdicts"]]
    return [badge(o, f"{found.count(o)} ") for o in OUTCOMES if o in found]


def badge(outcome: str, before: str = "") -> str:
    """Returns an outcome as a coloured word."""
    return f"<span class='badge {outcome}'>{before}{outcome}</span> "
