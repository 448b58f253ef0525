"""Results on disk, and the page made of them."""

import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from jaxbn.experiments import Result, Settings, figure_png, run_experiment
from jaxbn.experiments.__main__ import main
from jaxbn.experiments._numbers import as_plain, restored
from jaxbn.experiments._page import paragraphs
from jaxbn.experiments._records import as_record
from jaxbn.experiments._results import cell, write_results
from jaxbn.experiments._sentences import (
    INTRODUCTION,
    conditions,
    facts,
    summary,
    unseen,
)
from jaxbn.experiments._verdicts import LEVEL, TUNED, greater, less


def draw(figure):
    figure.subplots().plot([0, 1], label="line")


SIX = np.array([1.0, 1.1, 0.9, 1.0, 1.0, 1.05])
RESULT = Result(
    ("arm", "error %"),
    [("a < b", [1.0, 2.0, 3.0]), ("c", [float("nan")] * 3)],
    [
        greater("a claim", SIX, source="12 %"),
        less("another", SIX, by=0.5, chosen=TUNED, changed="the bound"),
        greater("a third", SIX - 1),
    ],
    draw,
    {"error": np.array([1.0, np.inf]), "step": np.int32(3)},
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    settings = Settings(str(folder / "learning_rate"), data_dir="/a/path")
    numbers, seeds = as_plain(RESULT.numbers), range(100, 106)
    record = as_record("learning_rate", "seed 2", settings, seeds, 3.2, numbers)
    said = write_results(folder / "learning_rate", record, RESULT, LEVEL)
    assert "**refuted**: another (1.01 [0.939, 1.078] < -0.5; p = " in said
    assert "**undecided**: a third" in said
    assert main(["report", f"--workdir={folder}"]) == 0
    return folder


def test_files_are_whole_and_name_no_path(workdir):
    files = {path.name for path in (workdir / "learning_rate").iterdir()}
    assert files == {"results.json", "table.md", "figure.png"}
    text = (workdir / "learning_rate" / "results.json").read_text()
    assert "/a/path" not in text and str(workdir) not in text
    found = json.loads(text)
    assert found["numbers"] == {"error": [1.0, None], "step": 3}
    outcomes = [v["outcome"] for v in found["verdicts"]]
    assert outcomes == ["held", "refuted", "undecided"]
    assert found["verdicts"][1]["criteria"][0]["below"] == -0.5
    assert found["versions"]["jax"] and found["seeds"] == list(range(100, 106))
    picture = (workdir / "learning_rate" / "figure.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and picture == figure_png(RESULT)


class Page(HTMLParser):
    """The tags of a page, and its links."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.pictures = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        named = dict(attributes)
        self.links += [named["href"]] if tag == "a" else []
        self.pictures += [named["src"]] if tag == "img" else []


def test_the_page_needs_no_other_file(workdir):
    text = (workdir / "report.html").read_text()
    page = Page(text)
    assert page.links == ["#learning_rate", "#learning_rate"]  # And what was changed.
    assert all(src.startswith("data:image/png;base64,") for src in page.pictures)
    assert "http" not in text.replace("http-equiv", "")
    assert "width=device-width" in text
    assert page.tags.count("td") == 4
    said = INTRODUCTION.split("\n\n")
    assert page.tags.count("p") == page.tags.count("h2") + len(said) + 3


def test_both_pages_say_how_results_were_made(workdir):
    text = (workdir / "report.html").read_text()
    assert "a &lt; b" in text and "Source: 12 %" in text
    assert "Bound: ours, chosen on seeds 0 to 4" in text and "; p = " in text
    assert "A claim is <em>held</em> if" in text and "<code>python -m" in text
    assert "another: the bound</li>" in text and "*" not in text.split("</style>")[1]
    markdown = (workdir / "results.md").read_text()
    assert INTRODUCTION in markdown
    assert "![" in markdown and "(learning_rate/figure.png)" in markdown
    found = json.loads((workdir / "learning_rate" / "results.json").read_text())
    p = f"{found['verdicts'][0]['p']:.2g}"
    row = f"| [learning_rate](#learning_rate) | a claim | held | {p} | 1.01 ["
    assert row in markdown and "] > 0 |  | 12 % |" in markdown
    assert "| verdict | p | quantity, interval and bound |" in markdown
    assert "1 experiments, 3 claims: 1 held, 1 refuted, 1 undecided." in markdown
    assert "- [learning_rate](#learning_rate), another: the bound" in markdown
    for page in (text, markdown):
        assert "All is of size small. Seeds are from 100 to 105. No design" in page
        assert "seeds that were never used while choosing." in page
        assert "6 seeds from 100, since claims were undecided with 5; 3 s" in page
        assert "Left out" not in page


def made(size="small", seeds=range(100, 105)):
    """Returns what the sentences need of a record."""
    settings = {"size": size, "seeds": 5}
    facts = {"seconds": 3.2, "date": "today", "machine": "a machine"}
    return {"settings": settings, "seeds": list(seeds), **facts}


def test_sentences_are_about_the_records():
    small, more, early = made(), made(seeds=range(100, 110)), made(seeds=range(5))
    assert facts(small) == "small, 5 seeds from 100; 3 s, today, a machine"
    said = "small, 10 seeds from 100, since claims were undecided with 5; 3 s, today"
    assert facts(more).startswith(said)
    assert conditions({"a": small, "b": more}) == (
        "All is of size small. Seeds are from 100 to 109. No design and no bound was "
        "chosen on any of them."
    )
    assert conditions({"a": small, "b": early}) == (
        "All is of size small. Seeds are from 0 to 104. Run on seeds below 100, on "
        "which designs and bounds were chosen: b."
    )
    assert unseen({"a": small, "b": early}).endswith("choosing, but for those of b.")
    assert conditions({"a": small, "b": made("smoke"), "c": more}).startswith(
        "Sizes differ: small (a, c); smoke (b). What is of size smoke shows that an "
        "experiment runs, no more. Seeds"
    )
    assert conditions({"a": made("smoke")}).startswith("All is of size smoke. What is")


def test_paragraphs_of_markdown():
    assert paragraphs("*a*\nb < `c`\n\nd's") == (
        "<p><em>a</em>\nb &lt; <code>c</code></p><p>d's</p>"
    )


def test_an_empty_workdir_is_refused(tmp_path, capsys):
    assert main(["report", f"--workdir={tmp_path}"]) == 1
    assert "expected folders such as" in capsys.readouterr().err


def remove(name):
    return lambda folder: (folder / name).unlink()


def edit(**items):
    def change(folder):
        record = {**json.loads((folder / "results.json").read_text()), **items}
        kept = {key: value for key, value in record.items() if value is not None}
        (folder / "results.json").write_text(json.dumps(kept))

    return change


def rewrite(text):
    return lambda folder: (folder / "results.json").write_text(text)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (rewrite("{"), "saturation/results.json cannot be read"),
        (rewrite('{"verdicts": []}'), "saturation/results.json has no experiment"),
        (edit(shown_by=None), "of an earlier version, or not judged; `verify` makes"),
        (edit(experiment="smoothness"), "saturation holds results of smoothness"),
        (edit(seeds=None), "saturation/results.json has no seeds"),
        (edit(verdicts=[{"claim": "a"}]), "KeyError: "),
        (remove("table.md"), "table.md is missing; `verify` makes it anew"),
        (remove("figure.png"), "figure.png is missing; `verify` makes it anew"),
    ],
)
def test_what_cannot_be_shown_is_left_out_and_named(
    workdir, tmp_path, damage, why, capsys
):
    for name in ("learning_rate", "saturation"):
        shutil.copytree(workdir / "learning_rate", tmp_path / name)
    edit(experiment="saturation", unknown=1)(tmp_path / "saturation")
    assert main(["report", f"--workdir={tmp_path}"]) == 0
    assert "2 experiments: " in capsys.readouterr().out
    damage(tmp_path / "saturation")
    assert main(["report", f"--workdir={tmp_path}"]) == 1
    out, err = capsys.readouterr()
    assert f"saturation is left out: {why}" in err and "1 experiments: " in out
    end = (tmp_path / "results.md").read_text().split("## Left out")[1]
    assert f"- saturation: {why}" in end and str(tmp_path) not in end
    assert "<h2>Left out</h2><ul><li>saturation: " in (
        (tmp_path / "report.html").read_text()
    )
    shutil.rmtree(tmp_path / "learning_rate")
    assert main(["report", f"--workdir={tmp_path}"]) == 1
    err = capsys.readouterr().err
    assert f"saturation is left out: {why}" in err and "no results in" in err


def test_cells_have_the_digits_they_need():
    assert cell([1.0, 3.0]) == "2.00 +- 1.41"
    assert cell([0.00123, 0.00125]) == "0.0012 +- 0.0000"
    assert cell(np.full(3, np.inf)) == "diverged"
    assert cell([1.0, np.nan]) == "1 diverged"
    assert cell("name") == "name"
    assert as_plain({1: (np.float32(0.5),)}) == {"1": [0.5]}


def test_numbers_come_back_as_arrays():
    found = {"a": np.array([[1.5, np.inf]]), "sizes": (2, 4), "ragged": ([1.0], [])}
    again = restored(json.loads(json.dumps(as_plain({**found, "rate": None}))))
    np.testing.assert_array_equal(again["a"], [[1.5, np.nan]])
    assert again["sizes"].tolist() == [2, 4] and again["sizes"].dtype.kind == "i"
    assert [len(each) for each in again["ragged"]] == [1, 0]
    assert np.isnan(again["rate"])


def test_names_that_are_unknown_are_refused():
    with pytest.raises(ValueError, match="no experiment is called 'lr'"):
        run_experiment("lr")
    assert summary("learning_rate").startswith("Learning rates over")
