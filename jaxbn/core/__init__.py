"""The arithmetic: moments measured, merged, absorbed, and used to normalize.

*Arithmetic*, as in the paper: `_moments` (measured, merged), `_normalize`, `_running`,
and `_training_pass`, all of it with its derivative. *The batch*, who is normalized
together: `_plan` and `_sizes`, `_shards` (parts of one array), `_by_index` (examples by
a traced index), `_reduce` (across devices), `_devices` and `_layout` (what pmap,
shard_map and jit differ in). *Sums*, how they are taken and what compilers need:
`_shift`, `_sums`, `_linear`, `_mask`, `_remat`. `_batch_norm`, `_init` and `_pair` make
a layer of it; `_checks` refuses what does not fit.
"""

from jaxbn.core._arrays import feature_axes as feature_axes
from jaxbn.core._arrays import feature_shape as feature_shape
from jaxbn.core._batch_norm import bn_apply as bn_apply
from jaxbn.core._init import bn_init as bn_init
from jaxbn.core._moments import Moments as Moments
from jaxbn.core._moments import batch_moments as batch_moments
from jaxbn.core._moments import merge_moments as merge_moments
from jaxbn.core._normalize import normalize as normalize
from jaxbn.core._pair import batch_norm as batch_norm
from jaxbn.core._reduce import reduce_moments as reduce_moments
from jaxbn.core._remat import keep_norm_inputs as keep_norm_inputs
from jaxbn.core._running import update_running as update_running
from jaxbn.core._shards import merge_replicas as merge_replicas
from jaxbn.core._shards import stacks_along as stacks_along
from jaxbn.core._sizes import describe_groups as describe_groups
from jaxbn.core._sizes import resolve_groups as resolve_groups
