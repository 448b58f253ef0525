"""Results on disk, and the page made of them."""

import json
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from jaxbn.experiments import (
    EXPERIMENTS,
    Result,
    Settings,
    figure_png,
    run_experiment,
)
from jaxbn.experiments.__main__ import main
from jaxbn.experiments._numbers import as_plain, restored
from jaxbn.experiments._report import summary
from jaxbn.experiments._results import as_record, cell, write_results
from jaxbn.experiments._verdicts import TUNED, greater, less


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
    numbers = as_plain(RESULT.numbers)
    record = as_record("learning_rate", "seed 2", settings, range(6), 3.2, numbers)
    said = write_results(folder / "learning_rate", record, RESULT)
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
    assert found["versions"]["jax"] and found["seeds"] == list(range(6))
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
    assert page.links == ["#learning_rate"]
    assert all(src.startswith("data:image/png;base64,") for src in page.pictures)
    assert "http" not in text.replace("http-equiv", "")
    assert "width=device-width" in text
    assert "a &lt; b" in text and "Source: 12 %" in text
    assert page.tags.count("td") == 4
    markdown = (workdir / "results.md").read_text()
    assert "![" in markdown and "(learning_rate/figure.png)" in markdown
    row = "| [learning_rate](#learning_rate) | a claim | held | 1.01 ["
    assert row in markdown and "] > 0 |  | 12 % |" in markdown
    assert "1 experiments, 3 claims: 1 held, 1 refuted, 1 undecided." in markdown
    assert "- [learning_rate](#learning_rate), another: the bound" in markdown


def test_an_empty_workdir_is_refused(tmp_path, capsys):
    assert main(["report", f"--workdir={tmp_path}"]) == 1
    assert "expected folders such as" in capsys.readouterr().err


def test_results_of_an_earlier_version_are_named(tmp_path, capsys):
    (tmp_path / "saturation").mkdir()
    (tmp_path / "saturation" / "results.json").write_text('{"verdicts": []}')
    assert main(["report", f"--workdir={tmp_path}"]) == 1
    assert "of an earlier version, or not judged" in capsys.readouterr().err


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


def test_all_goes_on_after_a_failure_and_keeps_what_is_there(
    workdir, monkeypatch, capsys
):
    names = ("learning_rate", "pattern_leakage", "saturation")
    some = {name: EXPERIMENTS[name] for name in names}
    monkeypatch.setattr("jaxbn.experiments.__main__.EXPERIMENTS", some)
    ran = []

    def process(command, **options):
        assert "env" not in options  # Which only smoke has.
        ran.append(command[3:])
        code = int("pattern_leakage" in command)
        return subprocess.CompletedProcess(command, code, f"said by {command[3]}\n")

    monkeypatch.setattr(subprocess, "run", process)
    assert main(["all", f"--workdir={workdir}", "--num_devices=4"]) == 1
    assert [command[0] for command in ran] == ["pattern_leakage", "saturation"]
    assert f"--workdir={workdir / 'saturation'}" in ran[1]
    assert "--num_devices=4" in ran[0]
    out, err = capsys.readouterr()
    assert "remove" in out and "failed: pattern_leakage" in err
    assert out.index("# pattern_leakage\nsaid by pattern") < out.index("# saturation\n")
    assert main(["all", f"--workdir={workdir}", "--seeds=3"]) == 1
    assert [command[0] for command in ran[2:]] == list(names)
    again = ["all", f"--workdir={workdir}", "--seeds=3", "--jobs=3"]
    assert main(again) == 1
    assert sorted(command[0] for command in ran[5:]) == sorted(names)
    assert not any("jobs=3" in word for command in ran for word in command)
    assert main([*again[:-1], "--jobs=0"]) == 2


def test_settings_that_cannot_be_run_are_refused(tmp_path, capsys):
    assert main(["learning_rate", f"--workdir={tmp_path}", "--seeds=0"]) == 2
    assert "seeds is 0, expected 1 or more" in capsys.readouterr().err
    assert main(["learning_rate", f"--workdir={tmp_path}", "--dataset=digits"]) == 1
    assert "digits has 1442 train examples" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
