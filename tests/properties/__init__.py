"""Properties: the laws of the catalog, of norms and data that hypothesis draws.

    python -m pytest tests/test_properties.py
    python -m tests.properties --examples=100000 --out=docs/reliability/properties.json

`test_laws.py` holds each law to rows written by hand, here norms, options, shapes,
dtypes, masks and devices are drawn too, and norms are put into norms. XLA compiles for
each of these, so they come as *programs*, a few dozen a round, made from a seed, and
data, masks, weights and momenta are drawn freely for each of them:

    _norms, _compositions  a kind of norm a function, with random options
    _references            the compositions in float64 NumPy, on top of `oracle`
    _programs              a row, a shape, a dtype, a kind of mask; what is compiled
    _cases                 a program and its numbers, as a strategy that shrinks
    _rounding              how far a result may be off, and why
    _property, _laws*, _gradients, _modules, _devices  the properties
    _rounds, _tally        hypothesis runs them; what was run, added up

The first command is what CI runs: one round, always the same. The second draws a seed
unless `--seed` says one, and writes the file after each property of each round.
"""
