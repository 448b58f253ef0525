"""Models: where their norm layers are, in their variables and while they run.

`find_layers` and `replace_layers` know variables, of any Flax model or another nested
tree. `watch` runs a model and calls back at every norm layer. Nothing else in jaxbn
goes through a model.
"""

from jaxbn.tree._variables import find_layers as find_layers
from jaxbn.tree._variables import path_name as path_name
from jaxbn.tree._variables import replace_layers as replace_layers
from jaxbn.tree._watch import Call as Call
from jaxbn.tree._watch import Handler as Handler
from jaxbn.tree._watch import watch as watch
