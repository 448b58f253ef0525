"""Collectives are read in the text of programs, compiled ones included."""

import jax
import jax.numpy as jnp
import pytest

from jaxbn.diagnostics import Collective, find_collectives


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("%a = bf16[2,3]{1,0} all-gather(%x)", ("all-gather", 12)),
        ("%a = f32[] all-reduce(%x)", ("all-reduce", 4)),
        ("%a = (f32[4], s8[2]) all-to-all(%x, %y)", ("all-to-all", 18)),
        ("%a = pred[5] collective-permute(%x)", ("collective-permute", 5)),
        ("%a = f64[2] reduce-scatter-start(%x)", ("reduce-scatter", 16)),
    ],
)
def test_lines_of_hlo(line, found):
    assert find_collectives(f"  {line}, channel_id=1\n") == [Collective(*found)]


def test_what_is_not_one():
    assert find_collectives("%all-reduce.1 = f32[2] add(%x, %all-reduce)") == []
    done = "%a = f32[2] all-reduce-done(%all-reduce-start)"
    assert find_collectives(done) == []


@pytest.mark.usefixtures("eight_devices")
def test_a_compiled_program():
    step = jax.pmap(lambda x: jax.lax.psum(x, "d") + jax.lax.pmax(x, "d"), "d")
    found = find_collectives(step.lower(jnp.ones((4, 6))).compile())
    assert found == [Collective("all-reduce", 24)] * 2
