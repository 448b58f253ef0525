"""The page of all results in HTML, which holds its pictures and needs no other file."""

import base64
import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxbn.experiments._results import FIGURE, TABLE
from jaxbn.experiments._sentences import (
    INTRODUCTION,
    Found,
    changed,
    conditions,
    counted,
    facts,
    summary,
    unseen,
)
from jaxbn.experiments._verdicts import OUTCOMES

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


def as_html(
    workdir: Path, found: Found, left_out: Mapping[str, str] | None = None
) -> str:
    """Returns the results as a page that needs no other file.

    Args:
        workdir: with the folders of the results.
        found: records by experiment.
        left_out: experiments that cannot be on the page, and why.
    """
    head = "".join(
        f"<li>{link(name)}: {html.escape(summary(name))} {''.join(tally(result))}</li>"
        for name, result in found.items()
    )
    changes = "".join(
        f"<li>{link(name)}, {html.escape(f'{claims}: {what}')}</li>"
        for name, what, claims in changed(found)
    )
    sections = "".join(section(workdir, name, found[name]) for name in found)
    rest = "".join(
        f"<li>{name}: {html.escape(why)}</li>" for name, why in (left_out or {}).items()
    )
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>jaxbn: claims and verdicts</title><style>{STYLE}</style></head>"
        f"<body><h1>Batch norm: claims and verdicts</h1>{paragraphs(INTRODUCTION)}"
        f"{paragraphs(conditions(found))}"
        f"<p>{len(found)} experiments: {counted(found)}.</p><ul>{head}</ul>"
        f"<h2>Changed after results had been seen</h2>{paragraphs(unseen(found))}"
        f"<ul>{changes or '<li>Nothing.</li>'}</ul>{sections}"
        + (f"<h2>Left out</h2><ul>{rest}</ul>" if rest else "")
        + "</body></html>\n"
    )


def paragraphs(text: str) -> str:
    """Returns paragraphs of Markdown in HTML, with *emphasis* and `code`, no more."""
    each = html.escape(text, quote=False).split("\n\n")
    inner = "".join(f"<p>{paragraph}</p>" for paragraph in each)
    inner = re.sub(r"`([^`]+)`", r"<code>\1</code>", inner)
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", inner)


def link(name: str) -> str:
    """Returns a link to an experiment's part of the page."""
    return f"<a href='#{name}'>{name}</a>"


def section(workdir: Path, name: str, result: dict[str, Any]) -> str:
    """Returns an experiment's part of the page."""
    picture = base64.b64encode((workdir / name / FIGURE).read_bytes()).decode()
    verdicts = "".join(map(item, result["verdicts"]))
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


def item(verdict: dict[str, Any]) -> str:
    """Returns a verdict as an item of a list."""
    said = [f"{verdict['numbers']}; p = {verdict['p']:.2g}"]
    said += [f"Bound: {verdict['chosen']}"] if verdict["chosen"] else []
    said += [f"Source: {verdict['source']}"] if verdict["source"] else []
    words = html.escape(". ".join(said))
    claim = html.escape(verdict["claim"])
    return f"<li>{badge(verdict['outcome'])} {claim}<br><small>{words}</small></li>"


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
