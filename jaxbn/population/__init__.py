"""Population statistics: what should normalize at test time."""

from jaxbn.population._accumulate import Collected as Collected
from jaxbn.population._accumulate import collect_moments as collect_moments
from jaxbn.population._accumulate import commit_moments as commit_moments
from jaxbn.population._accumulate import merge_collected as merge_collected
from jaxbn.population._accumulate import pool_collected as pool_collected
from jaxbn.population._agree import assert_replicas_agree as assert_replicas_agree
from jaxbn.population._merge import merge_batch_stats as merge_batch_stats
from jaxbn.population._precise import PreciseReport as PreciseReport
from jaxbn.population._precise import precise_batch_stats as precise_batch_stats
from jaxbn.population._window import effective_window as effective_window
from jaxbn.population._window import momentum_for_batch_size as momentum_for_batch_size
from jaxbn.population._window import momentum_for_window as momentum_for_window
