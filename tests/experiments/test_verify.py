"""Whether docs/experiments is made by today's code, and what `verify` makes anew."""

import json
import subprocess

import pytest
from committed import DOCS
from made_up import NAMES, MadeUp, put_in_place

from jaxbn.experiments import EXPERIMENTS, Settings, _fingerprint
from jaxbn.experiments.__main__ import main
from jaxbn.experiments._fingerprint import fingerprint
from jaxbn.experiments._report import as_markdown
from jaxbn.experiments._running import run
from jaxbn.experiments._sentences import counted
from jaxbn.experiments._state import alike, state_of


def test_committed_results_are_up_to_date(capsys):
    main(["verify", f"--workdir={DOCS}", "--dry_run", "--missing"])
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(said) == list(EXPERIMENTS)
    old = {name: why for name, why in said.items() if "is up to date" not in why}
    assert not old, "python -m jaxbn.experiments verify --workdir=docs/experiments"


def test_the_committed_page_is_made_of_them():
    found = {
        name: json.loads((DOCS / name / "results.json").read_text())
        for name in EXPERIMENTS
    }
    assert as_markdown(DOCS, found) == (DOCS / "results.md").read_text()
    page = (DOCS / "not_reproduced.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    rows = [line[2:-2].split(" | ") for line in lines[2:]]
    stated = {
        (f"[{name}](results.md#{name})", verdict["claim"], verdict["outcome"])
        for name, record in found.items()
        for verdict in record["verdicts"]
    }
    assert {row[0] for row in rows} == {str(i) for i in range(1, 20)}
    assert {tuple(row[1:]) for row in rows} <= stated
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
        "SIZE = 3", "# Three.\n\nSIZE = 3  # As it was."
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


@pytest.fixture
def made_up(monkeypatch):
    return put_in_place(monkeypatch)


@pytest.fixture
def three(monkeypatch, tmp_path):
    """Returns a workdir with results of three experiments."""
    put_in_place(monkeypatch, NAMES)
    for name in NAMES:
        assert run(name, Settings(str(tmp_path / name))) == 0
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """Returns what was to be run, instead of running it."""
    asked = []

    def these(each, jobs):
        asked.append((each, jobs))
        return 0

    monkeypatch.setattr("jaxbn.experiments._verify.run_these", these)
    return asked


def edit(folder, **items):
    """Changes a record; None removes a key."""
    record = {**json.loads((folder / "results.json").read_text()), **items}
    kept = {key: value for key, value in record.items() if value is not None}
    (folder / "results.json").write_text(json.dumps(kept))


def lines(text):
    """Returns what was said of each experiment."""
    pairs = [line.split(maxsplit=1) for line in text.splitlines()]
    return {pair[0]: pair[1] for pair in pairs if pair and pair[0] in NAMES}


def test_verify_makes_anew_what_is_not_todays(
    made_up, tmp_path, monkeypatch, capsys, asked
):
    folder = tmp_path / "learning_rate"
    check = ["verify", f"--workdir={tmp_path}", "--dry_run"]
    assert run("learning_rate", Settings(str(folder), first_seed=200)) == 0
    assert main(check) == 0
    (folder / "table.md").write_text("by hand")
    assert main(check) == 1
    assert "made in another way" in capsys.readouterr().out
    monkeypatch.setattr(made_up, "measure", None)  # It need not be measured.
    assert main(check[:-1]) == 0 and main(check) == 0
    (folder / "figure.png").unlink()
    assert main(check) == 1 and main(check[:-1]) == 0
    assert (folder / "figure.png").exists() and main(check) == 0
    assert not (folder / "results.old.json").exists() and not asked
    edit(folder, measured_by="another")
    assert main(check) == 1
    assert "the code that measures has changed" in capsys.readouterr().out
    assert main([*check[:-1], "--data_dir=D", "--jobs=2"]) == 0
    settings = Settings(str(folder), data_dir="D", first_seed=200)
    assert asked == [({"learning_rate": settings}, 2)]


def test_verdicts_are_compared(made_up, tmp_path):
    assert run("learning_rate", Settings(str(tmp_path))) == 0
    record = json.loads((tmp_path / "results.json").read_text())
    assert state_of("learning_rate", tmp_path).kind == "current"
    edit(tmp_path, verdicts=[{**record["verdicts"][0], "changed": "the bound"}])
    assert state_of("learning_rate", tmp_path).kind == "unshown"
    rounded = {**record["verdicts"][0], "p": record["verdicts"][0]["p"] * (1 + 1e-6)}
    edit(tmp_path, verdicts=[rounded])
    assert state_of("learning_rate", tmp_path).kind == "current"
    assert alike({"a": [1, None]}, {"a": [1.0, None]})
    assert not alike({"a": [1]}, {"a": [1, 2]}) and not alike({"a": 1}, {"b": 1})
    assert not alike([0.1], ["0.1"]) and not alike(1, 1.01)


def test_a_second_look_that_was_interrupted_is_unfinished(
    made_up, tmp_path, monkeypatch, capsys, asked
):
    folder = tmp_path / "learning_rate"
    settings = Settings(str(folder))
    assert run("learning_rate", Settings(str(folder), most_seeds=5)) == 0
    kept = json.loads((folder / "results.json").read_text())["settings"]
    edit(folder, settings={**kept, "most_seeds": 10}, shown_by=None, verdicts=None)
    for extra in (["--dry_run"], []):
        code = main(["verify", f"--workdir={tmp_path}", *extra])
        assert code == 1  # Without results that were judged there is no page either.
        why = "claims are undecided and 10 seeds were asked for"
        assert lines(capsys.readouterr().out) == {"learning_rate": why}
    assert main(["all", f"--workdir={tmp_path}"]) == 1
    assert asked == [({"learning_rate": settings}, 1)] * 2


def test_a_run_that_was_interrupted_before_judging_is_not_done(
    made_up, tmp_path, monkeypatch, asked
):
    folder = tmp_path / "learning_rate"
    monkeypatch.setattr(made_up, "mean", 9.0)
    assert run("learning_rate", Settings(str(folder))) == 0
    whole = (folder / "results.json").read_text()
    for command in ("all", "verify"):
        edit(folder, shown_by=None, verdicts=None)
        (folder / "figure.png").unlink()
        assert main([command, f"--workdir={tmp_path}"]) == 0
        assert (folder / "results.json").read_text() == whole
        assert (folder / "figure.png").exists() and not asked


def test_claims_that_are_undecided_now_need_more_seeds(
    made_up, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(made_up, "mean", 9.0)
    assert run("learning_rate", Settings(str(tmp_path / "learning_rate"))) == 0
    show = made_up.show
    monkeypatch.setattr(made_up, "show", lambda found: show({"x": found["x"] - 9}))
    assert main(["verify", f"--workdir={tmp_path}", "--dry_run"]) == 1
    assert "10 seeds were asked for" in capsys.readouterr().out


def test_only_folders_that_exist_are_verified(made_up, tmp_path, monkeypatch, asked):
    put_in_place(monkeypatch, NAMES)
    assert run("saturation", Settings(str(tmp_path / "saturation"))) == 0
    check = ["verify", f"--workdir={tmp_path}"]
    assert main(check) == 0 and main([*check, "--dry_run"]) == 0 and not asked
    assert main([*check, "--missing", "--dry_run"]) == 1
    assert main([*check, "--missing"]) == 0
    expected = {name: Settings(str(tmp_path / name)) for name in NAMES[:2]}
    assert asked == [(expected, 1)]


def test_a_folder_without_results_is_named_and_not_run(three, capsys, asked):
    (three / "saturation" / "results.json").unlink()
    check = ["verify", f"--workdir={three}"]
    assert main(check) == 0 and not asked
    found = lines(capsys.readouterr().out)
    assert found["saturation"] == "has no results; --missing runs it"
    assert found["learning_rate"] == "is up to date"


def test_workdirs_that_cannot_be_verified_are_refused(three, tmp_path, capsys, asked):
    folder = three / "saturation"
    assert main(["verify", f"--workdir={folder}"]) == 2
    err = capsys.readouterr().err
    assert f"{folder} has results of a single experiment, expected a folder of" in err
    assert main(["verify", f"--workdir={three / 'no'}", "--missing"]) == 2
    err = capsys.readouterr().err
    assert "has results of no experiment, expected a folder of each, such as" in err
    assert main(["verify", f"--workdir={three}", "--jobs=0"]) == 2
    assert capsys.readouterr().err == "jobs is 0, expected 1 or more\n"
    assert not asked


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "cannot be read (Expecting property name"),
        (
            "{}",
            "has no experiment, settings, numbers, seeds, seconds, expected what",
        ),
        ("[1]", "has no experiment, settings, numbers"),
        ('{"experiment": "saturation", "settings": []}', "has no settings, numbers"),
    ],
)
def test_what_cannot_be_read_is_measured_again(three, text, why, capsys, asked):
    file = three / "saturation" / "results.json"
    file.write_text(text)
    main(["verify", f"--workdir={three}"])
    found = lines(capsys.readouterr().out)
    assert found["saturation"].startswith(f"{file} {why}")
    assert found["learning_rate"] == found["pattern_leakage"] == "is up to date"
    assert asked == [({"saturation": Settings(str(file.parent))}, 1)]


def test_numbers_that_cannot_be_judged_are_named(three, capsys, asked):
    folder = three / "learning_rate"
    edit(folder, numbers={"x": [1.0, None, 1.0, 1.0, 1.0]})
    edit(three / "pattern_leakage", measured_by="another")
    before = (folder / "results.json").read_text()
    for command in (["verify"], ["verify", "--dry_run"], ["all"]):
        assert main([*command, f"--workdir={three}"]) == 1
        out, err = capsys.readouterr()
        assert "cannot be judged (ValueError: a claim: the values [" in out
        if command[1:]:
            continue
        assert "cannot be shown: learning_rate\n" in err
        ((again, _),) = asked
        assert list(again) == ["pattern_leakage"]
        asked.clear()
    assert (folder / "results.json").read_text() == before
    edit(folder, numbers={"y": 1})
    assert main(["verify", f"--workdir={three}", "--dry_run"]) == 1
    assert "cannot be judged (KeyError: 'x')" in capsys.readouterr().out


def test_a_figure_that_cannot_be_drawn_ends_no_other(three, monkeypatch, capsys, asked):
    show = MadeUp.show

    def fail(figure):
        raise RuntimeError("no ink")

    monkeypatch.setattr(MadeUp, "show", lambda found: show(found)._replace(draw=fail))
    (three / "learning_rate" / "table.md").unlink()
    edit(three / "saturation", measured_by="another")
    assert main(["verify", f"--workdir={three}"]) == 1
    out, err = capsys.readouterr()
    assert "cannot be written: RuntimeError: no ink" in out
    assert "cannot be shown: learning_rate\n" in err
    assert [list(each) for each, _ in asked] == [["saturation"]]


def test_results_of_another_experiment_are_named(three, capsys, asked):
    edit(three / "learning_rate", experiment="smoothness")
    assert main(["verify", f"--workdir={three}"]) == 1
    said = lines(capsys.readouterr().out)["learning_rate"]
    assert "holds results of smoothness, expected learning_rate's" in said
    assert not asked


def test_settings_that_were_not_recorded_are_todays(three, capsys, asked):
    kept = {"seeds": 7, "size": "small", "dataset": None, "num_devices": None}
    kept |= {"parallel": "pmap", "a flag that is gone": 1, "jobs": 3}
    edit(three / "learning_rate", settings=kept, measured_by=None)
    check = ["verify", f"--workdir={three}"]
    assert main(check) == 0
    said = "does not record most_seeds, first_seed; will be run with today's default of"
    assert lines(capsys.readouterr().out)["learning_rate"] == f"{said} 10, 100"
    settings = Settings(str(three / "learning_rate"), seeds=7)
    assert asked == [({"learning_rate": settings}, 1)]
    assert main(["all", *check[1:], "--first_seed=200"]) == 0
    said = lines(capsys.readouterr().out)["learning_rate"]
    assert said == "does not record most_seeds, first_seed; will be run with 10, 200"


def test_all_goes_on_after_a_failure_and_keeps_what_is_there(
    made_up, tmp_path, monkeypatch, capsys
):
    put_in_place(monkeypatch, NAMES)
    assert run("learning_rate", Settings(str(tmp_path / "learning_rate"))) == 0
    ran = []

    def process(command, **options):
        ran.append(command[3])
        code = int("pattern_leakage" in command)
        return subprocess.CompletedProcess(command, code, f"said by {command[3]}\n")

    monkeypatch.setattr(subprocess, "run", process)
    every = ["all", f"--workdir={tmp_path}"]
    assert main([*every, "--num_devices=4"]) == 1
    assert ran == ["pattern_leakage", "saturation"]
    out, err = capsys.readouterr()
    assert f"remove {tmp_path / 'learning_rate'} to run it again" in out
    assert "failed: pattern_leakage" in err
    assert main([*every, "--seeds=3"]) == 1
    assert ran[2:] == list(NAMES)
    assert "seeds was 5 and is 3" in capsys.readouterr().out
    assert main([*every, "--seeds=3", "--jobs=3"]) == 1
    assert sorted(ran[5:]) == sorted(NAMES)
    assert main([*every, "--jobs=0"]) == 2
    assert main([*every, "--seeds=0"]) == 2


def test_other_code_of_the_library_is_named_and_run_again_if_asked(
    three, asked, capsys, monkeypatch
):
    monkeypatch.setattr("jaxbn.experiments._state.library", lambda: "other")
    path = three / NAMES[0] / "results.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "versions": None}))
    capsys.readouterr()
    assert main(["verify", f"--workdir={three}"]) == 0
    said = capsys.readouterr().out
    assert said.count("is up to date; the library has changed since\n") == 2
    assert said.count("; which code of the library measured it is not recorded\n") == 1
    assert not asked
    assert main(["verify", f"--workdir={three}", "--library"]) == 0
    assert [list(each) for each, _ in asked] == [list(NAMES)]
