"""Mutants that nobody could tell from the library, and why.

A mutant is known here by its file, without `jaxbn/`, and a part of the line it makes.
"""

from tests.mutation._mutants import Mutant

EQUIVALENT: dict[tuple[str, str], str] = {
    ("core/_by_index.py", "max(shift[ -1].nbytes, 1)"): (
        "all rows of a table have the same size"
    ),
    ("core/_linear.py", "linear[ -1].shape[a] for a in self.features"): (
        "the sums are linear in one array, the first and the last"
    ),
    ("core/_reduce.py", "pooled(total * delta, (m2))"): (
        "stacked with complex sums a real one becomes complex by itself"
    ),
    ("core/_reduce.py", "jnp.where(counted, moments.mean, -1)"): (
        "what was not counted is multiplied by its total, 0"
    ),
    ("core/_sums.py", "if len(alike) < 1 and 0 not in alike else 0"): (
        "sums are taken at once instead of one after the other: a matter of speed"
    ),
    ("core/_sums.py", "return (fill(x, weights, wide.astype(x.dtype))) - wide"): (
        "the difference to a wider array has its dtype anyway"
    ),
    ("population/_install.py", "def mean(self) -> Array:"): (
        "of a protocol, which only types are checked by"
    ),
    ("population/_install.py", "def var(self) -> Array:"): (
        "of a protocol, which only types are checked by"
    ),
    ("population/_passes.py", "(variables, *args, **kwargs)[ 1]"): (
        "traced for what it calls on the way; the result goes nowhere"
    ),
    ("training/_state.py", "leaves[ -1].shape[0] == devices"): (
        "all replicas are stacked over the same devices"
    ),
    ("variants/_baselines.py", "each_example(as_it_is, axis, 1.0, dtype, options)"): (
        "no norm adds no epsilon to anything"
    ),
    ("variants/_frozen.py", "wide = (conceal(x, weights))"): (
        "the product with a wider gain has its dtype anyway"
    ),
    ("variants/_joint.py", "pairs = list(zip(arrays, masks, strict=False))"): (
        "other lengths were refused before"
    ),
    ("variants/_over_channels.py", "if not not are_few(x.shape[axis]):"): (
        "both forms of the sum are right for any size: a matter of speed"
    ),
    ("variants/_over_channels.py", "(_measure_few if not few else measure)"): (
        "both forms of the sum are right for any size: a matter of speed"
    ),
    ("variants/_over_positions.py", "if x.ndim < 4 and self.features[-1] != last"): (
        "the order in which sums are taken: a matter of speed"
    ),
    ("variants/_renorm.py", "jnp.where(size >= 0, size, 1)"): (
        "where the size is 0 the other branch is taken, and nothing is differentiated"
    ),
    ("variants/_shuffle.py", "if not back:"): (
        "the two permutations change places on both ways: as random, and undone"
    ),
}


def why_equivalent(mutant: Mutant) -> str | None:
    """Returns why a mutant is equivalent, if it is."""
    for (file, part), why in EQUIVALENT.items():
        if mutant.file == f"jaxbn/{file}" and part in mutant.after:
            return why
    return None
