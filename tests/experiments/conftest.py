"""One run of an experiment at smoke size, for all tests of its file."""

import pytest

from jaxbn.experiments import run_experiment

pytest.register_assert_rewrite("committed")


@pytest.fixture(scope="module")
def result(request):
    name = request.path.stem.removeprefix("test_")
    return run_experiment(name, size="smoke", seeds=2)
