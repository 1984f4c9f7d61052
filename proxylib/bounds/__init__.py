"""What a loss over proxies says about the loss over the points, and where the patent's constants
fall short: ε, the bounds of triplets, statistics over a data set."""

from proxylib.bounds.inequalities import (
    allowance,
    expected_ranking_bound,
    nca_bound,
    ranking_bound,
    triplet_bound,
)
from proxylib.bounds.statistics import bound_statistics
from proxylib.bounds.triplets import (
    Triplets,
    all_triplets,
    epsilon_by_class,
    gather_triplets,
    group_triplets,
    grouped_total,
    proxy_errors,
    unit,
)

__all__ = ["Triplets", "all_triplets", "allowance", "bound_statistics"]
__all__ += ["epsilon_by_class", "expected_ranking_bound", "gather_triplets", "group_triplets"]
__all__ += ["grouped_total", "nca_bound", "proxy_errors", "ranking_bound", "triplet_bound", "unit"]
