"""The wheel holds the package, its licence and what describes it, and nothing else."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason="hatchling builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "jaxbn", folder / "jaxbn", ignore=ignored)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (path,) = (folder / "dist").iterdir()
    return path


def test_holds_what_it_should(wheel):
    sources = ROOT.glob("jaxbn/**/*")
    wanted = {
        str(p.relative_to(ROOT)) for p in sources if p.suffix in (".py", ".typed")
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (info,) = {name.partition("/")[0] for name in names} - {"jaxbn"}
        about = {
            f"{info}/{name}"
            for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")
        }
        about.add(f"{info}/licenses/LICENSE")
        assert names == wanted | about
        assert "jaxbn/py.typed" in names
        text = archive.read(f"{info}/METADATA").decode()
    assert (
        "Requires-Python: >=3.11" in text and "License-Expression: Apache-2.0" in text
    )
    assert wheel.name.endswith("-py3-none-any.whl") and wheel.stat().st_size < 1e6


def test_is_importable_on_its_own(wheel):
    """From the archive itself, away from the repository."""
    code = "import jaxbn; print(jaxbn.__file__)"
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(wheel), "PATH": ""}
    found = subprocess.run(
        command, cwd=wheel.parent, env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(str(wheel))


@pytest.mark.parametrize("missing", ["tyro", "rich", "orbax"])
def test_train_py_says_what_to_install(missing):
    script = Path(__file__).parents[1] / "train.py"
    code = """
import runpy, sys
sys.modules[sys.argv[1]] = None
runpy.run_path(sys.argv[2], run_name="__main__")
"""
    command = [sys.executable, "-c", code, missing, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(script.parent)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    words = f"train.py: {missing} is not installed; pip install 'jaxbn[train]'\n"
    assert (found.returncode, found.stderr) == (1, words)


def test_without_the_extra_it_says_what_to_install(wheel):
    """The command line where tyro is missing, from the archive itself."""
    code = """
import sys
sys.modules["tyro"] = None
sys.path.insert(0, sys.argv[1])
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: name != "tyro" and real(name, *more)
from jaxbn.cli import main
print(main(["inspect", "x"]), main(["doctor"]))
"""
    command = [sys.executable, "-c", code, str(wheel)]
    found = subprocess.run(command, cwd=wheel.parent, capture_output=True, text=True)
    words = "jaxbn inspect: tyro is not installed; pip install 'jaxbn[train]'\n"
    assert found.stderr.endswith(words)
    assert found.stdout.startswith("python ") and found.stdout.endswith("\n1 0\n")
