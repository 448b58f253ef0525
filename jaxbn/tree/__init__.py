"""Models: where their norm layers are, in their variables and while they run.

`find_layers` and `replace_layers` know variables, of any Flax model or another nested
tree. `watch` runs a model and calls back at every norm layer. Nothing else in jaxbn
goes through a model.
"""

from jaxbn.tree._call import Call as Call
from jaxbn.tree._call import Handler as Handler
from jaxbn.tree._call import is_norm as is_norm
from jaxbn.tree._call import library_class as library_class
from jaxbn.tree._measure import each_part as each_part
from jaxbn.tree._measure import is_measured as is_measured
from jaxbn.tree._measure import merge_two as merge_two
from jaxbn.tree._measure import moments_of as moments_of
from jaxbn.tree._parts import as_model as as_model
from jaxbn.tree._parts import as_static as as_static
from jaxbn.tree._parts import at_batch as at_batch
from jaxbn.tree._parts import check_known as check_known
from jaxbn.tree._parts import join_arrays as join_arrays
from jaxbn.tree._parts import layers_with_statistics as layers_with_statistics
from jaxbn.tree._parts import params_of as params_of
from jaxbn.tree._parts import run_jitted as run_jitted
from jaxbn.tree._parts import split_arrays as split_arrays
from jaxbn.tree._parts import stats_of as stats_of
from jaxbn.tree._parts import variables_of as variables_of
from jaxbn.tree._parts import with_stats as with_stats
from jaxbn.tree._replacing import replacing as replacing
from jaxbn.tree._variables import find_layers as find_layers
from jaxbn.tree._variables import has_statistics as has_statistics
from jaxbn.tree._variables import path_name as path_name
from jaxbn.tree._variables import replace_layers as replace_layers
from jaxbn.tree._watch import watch as watch
