"""The laws of the catalog as properties of norms and data that hypothesis draws.

`tests.properties` says what is drawn, and how to run more of it than CI does.
"""

import time

import pytest

from tests.properties._property import PROPERTIES
from tests.properties._rounds import ROUNDS, forget, programs_for, run
from tests.properties._tally import note


@pytest.fixture(scope="module", params=range(ROUNDS))
def round_(request):
    yield request.param
    forget()


@pytest.mark.parametrize("prop", PROPERTIES, ids=lambda prop: prop.law)
def test_what_is_drawn_keeps_the_law(prop, round_, record_property):
    if not programs_for(prop, round_):
        pytest.skip("needs as many devices as its programs, or another draw of them")
    ran, start = [], time.perf_counter()
    try:
        run(prop, round_, ran)
    finally:
        note(record_property, prop.law, ran, time.perf_counter() - start)
    assert ran
