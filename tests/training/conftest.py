"""What the tests of training share."""

import pytest

from jaxbn.training import _report


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """A second of every run; `test_train_script.py` has them drawn."""
    for name in ("plot_curves", "plot_activations"):
        monkeypatch.setattr(_report, name, lambda *what: None)
