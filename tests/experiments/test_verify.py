"""Whether docs/experiments is made by today's code, and what `verify` makes anew."""

import json
import shutil

import pytest
from committed import DOCS

from jaxbn.experiments import EXPERIMENTS, Result, Settings, _fingerprint
from jaxbn.experiments import _registry as registry
from jaxbn.experiments.__main__ import main
from jaxbn.experiments._fingerprint import fingerprint
from jaxbn.experiments._report import as_markdown, counted
from jaxbn.experiments._running import run
from jaxbn.experiments._verdicts import greater

WAITING = {"residual_net"}
"""Experiments without committed results: five seeds take half an hour of two cores."""


def test_committed_results_are_up_to_date(capsys):
    main(["verify", f"--workdir={DOCS}", "--dry_run"])
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    expected = {
        name: "has no results" if name in WAITING else "is up to date"
        for name in EXPERIMENTS
    }
    assert said == expected


def test_the_committed_page_is_made_of_them():
    names = [name for name in EXPERIMENTS if name not in WAITING]
    found = {
        name: json.loads((DOCS / name / "results.json").read_text()) for name in names
    }
    assert as_markdown(DOCS, found) == (DOCS / "results.md").read_text()
    readme = (DOCS.parents[1] / "README.md").read_text()
    assert counted(found) in " ".join(readme.split())


CODE = '''"""An experiment."""

from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._measure import shuffled_split

SIZE = 3


def measure(settings: Settings) -> dict:
    """Measures."""
    return helper(settings)


def helper(settings):
    return {"x": [SIZE, shuffled_split]}


def show(found):
    return Result((), (), (), print, found)
'''


@pytest.fixture
def prints(monkeypatch):
    """Returns the fingerprints of an experiment with the code given."""

    def of(code):
        _fingerprint._symbols.cache_clear()
        source = _fingerprint.inspect.getsource
        monkeypatch.setitem(EXPERIMENTS, "made_up", "made_up")
        monkeypatch.setattr(_fingerprint, "module_of", lambda name: None)
        modules = _fingerprint.importlib.import_module
        monkeypatch.setattr(
            _fingerprint.importlib,
            "import_module",
            lambda name: name if name == "made_up" else modules(name),
        )
        monkeypatch.setattr(
            _fingerprint.inspect,
            "getsource",
            lambda module: code if module == "made_up" else source(module),
        )
        found = tuple(fingerprint("made_up", each) for each in ("measure", "show"))
        monkeypatch.undo()
        _fingerprint._symbols.cache_clear()
        return found

    return of


def test_fingerprints_are_of_what_is_reached(prints):
    measured, shown = prints(CODE)
    words = CODE.replace("Measures.", "It measures.\n    ").replace(
        "SIZE = 3", "# Three.\nSIZE  =  3"
    )
    assert prints(words) == (measured, shown)
    for old, new in (
        ("SIZE = 3", "SIZE = 4"),
        ('{"x"', '{"y"'),
        ("_measure", "_samplers"),
    ):
        changed = prints(CODE.replace(old, new))
        assert changed[0] != measured and changed[1] == shown
    assert prints(CODE.replace("print", "repr"))[0] == measured
    assert prints(CODE.replace("print", "repr"))[1] != shown


class MadeUp:
    """A module of an experiment, whose claim is undecided at first."""

    __doc__ = "Made up."
    SOURCE = "nothing"
    seeds = ()
    fails = False

    @classmethod
    def measure(cls, settings):
        cls.seeds = settings.seed_numbers
        return {"x": [0.1 + (-1) ** seed for seed in settings.seed_numbers]}

    @classmethod
    def show(cls, found):
        if cls.fails:
            raise ValueError("cannot be shown")
        claim = greater("a claim", found["x"])

        def draw(figure):
            figure.subplots()

        return Result(("x",), [(found["x"],)], [claim], draw, found)


@pytest.fixture
def made_up(monkeypatch):
    for module in ("_running", "_registry"):
        place = f"jaxbn.experiments.{module}.module_of"
        monkeypatch.setattr(place, lambda name: MadeUp)
    monkeypatch.setattr(
        "jaxbn.experiments._results.fingerprint", lambda name, function: function
    )
    monkeypatch.setattr(
        "jaxbn.experiments._verify.fingerprint", lambda name, function: function
    )
    some = {"learning_rate": EXPERIMENTS["learning_rate"]}
    monkeypatch.setattr("jaxbn.experiments._verify.EXPERIMENTS", some)
    return MadeUp


def test_undecided_claims_get_more_seeds(made_up, tmp_path, capsys):
    assert run("learning_rate", Settings(str(tmp_path))) == 0
    assert made_up.seeds == tuple(range(100, 110))
    assert (
        "1 of 1 claims are undecided with 5 seeds; goes on" in capsys.readouterr().out
    )
    assert run("learning_rate", Settings(str(tmp_path), most_seeds=5)) == 0
    assert run("learning_rate", Settings(str(tmp_path), size="smoke")) == 0
    assert made_up.seeds == tuple(range(100, 105))


def test_numbers_are_kept_when_judging_fails(made_up, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(made_up, "fails", True)
    assert run("learning_rate", Settings(str(tmp_path))) == 1
    assert "cannot be shown" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "results.json").read_text())["numbers"]["x"]) == 5


def test_verify_makes_anew_what_is_not_todays(made_up, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "learning_rate"
    check = ["verify", f"--workdir={tmp_path}", "--dry_run"]
    assert main(check) == 1
    assert "has no results" in capsys.readouterr().out
    assert run("learning_rate", Settings(str(folder), first_seed=200)) == 0
    assert main(check) == 0
    (folder / "table.md").write_text("by hand")
    assert main(check) == 1
    assert "made in another way" in capsys.readouterr().out
    monkeypatch.setattr(made_up, "measure", None)  # It need not be measured.
    assert main(check[:-1]) == 0 and main(check) == 0
    record = json.loads((folder / "results.json").read_text())
    record["measured_by"] = "another"
    (folder / "results.json").write_text(json.dumps(record))
    assert main(check) == 1
    assert "the code that measures has changed" in capsys.readouterr().out
    asked = []

    def these(each, jobs):
        asked.append((each, jobs))
        return 0

    monkeypatch.setattr("jaxbn.experiments._verify.run_these", these)
    assert main([*check[:-1], "--data_dir=D", "--jobs=2"]) == 0
    settings = Settings(str(folder), data_dir="D", first_seed=200)
    assert asked == [({"learning_rate": settings}, 2)]
    shutil.rmtree(folder)


def test_the_registry_shows_what_json_holds(made_up):
    result = registry.run_experiment("learning_rate", seeds=3)
    assert result.numbers["x"].tolist() == [1.1, -0.9, 1.1]
