from functools import partial

import pytest

from proxylib.bounds import nca_bound, ranking_bound, triplet_bound
from proxylib.study.bound_search import break_bound


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 2.0])
def test_search_reaches_the_corrected_constants_and_no_further(epsilon):
    search = partial(break_bound, epsilon=epsilon, trials=16, steps=100)
    for bound in (
        ranking_bound,
        partial(nca_bound, embedding_norm=2, proxy_norm=1.5),
        partial(triplet_bound, margin=6.0),
    ):
        ratio, triplets = search(bound)
        assert 0.99 < ratio <= 1 + 1e-9
        assert bound(triplets, epsilon=epsilon).ratio.max() == pytest.approx(ratio)
        assert 0.99 < search(partial(bound, constant="shared"), shared=True)[0] <= 1 + 1e-9
    # Where the anchor shares the positive's proxy the printed NCA constant is right for small ε.
    shared = search(partial(nca_bound, constant="published"), shared=True)[0]
    assert (shared > 1) == (epsilon > 0.0804)
