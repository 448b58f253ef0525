"""The arithmetic: moments measured, merged, absorbed, and used to normalize.

Read in this order: `_moments` (measure, merge), `_reduce` (merge across devices),
`_sizes`, `_plan` and `_lanes` (what is normalized together), `_running` (absorb),
`_normalize` (use), `_fused` (measure and use at once), `_tangents` (its derivative),
`_remat` (what of it is kept), `_adjust` (move what was normalized), `_batch_norm` and
`_pair` (all of it as one layer).
"""

from jaxbn.core._axes import feature_axes as feature_axes
from jaxbn.core._axes import feature_shape as feature_shape
from jaxbn.core._batch_norm import bn_apply as bn_apply
from jaxbn.core._init import bn_init as bn_init
from jaxbn.core._lanes import merge_replicas as merge_replicas
from jaxbn.core._lanes import stacks_along as stacks_along
from jaxbn.core._moments import Moments as Moments
from jaxbn.core._moments import batch_moments as batch_moments
from jaxbn.core._moments import merge_moments as merge_moments
from jaxbn.core._normalize import normalize as normalize
from jaxbn.core._pair import batch_norm as batch_norm
from jaxbn.core._reduce import reduce_moments as reduce_moments
from jaxbn.core._remat import keep_norm_inputs as keep_norm_inputs
from jaxbn.core._running import update_running as update_running
from jaxbn.core._sizes import describe_groups as describe_groups
from jaxbn.core._sizes import resolve_groups as resolve_groups
