"""The loss, the assignment and the objective against slow loops over single points."""

import math

import pytest
import torch

from proxylib.losses import nca_loss, pairwise_distance, rescale
from proxylib.objectives import ProxyNCA
from proxylib.proxies import SHARED, UNUSED, assign_by_label, exclusive_label, negative_mask


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_distance_equals_the_loop():
    a, b = rand(4, 3), rand(5, 3, seed=1)
    slow = torch.stack([torch.stack([((u - v) ** 2).sum() for v in b]) for u in a])
    torch.testing.assert_close(pairwise_distance(a, b), slow)
    torch.testing.assert_close(pairwise_distance(a, b, squared=False), slow.sqrt())


def test_distance_follows_dtype_and_raises_half_precision():
    f16, f32, f64 = torch.bfloat16, torch.float32, torch.float64
    for given, wanted in [(f64, f64), (f32, f32), (f16, f32)]:
        assert pairwise_distance(rand(2, 3).to(given), rand(4, 3).to(given)).dtype == wanted


def test_distance_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(4, 5\)"):
        pairwise_distance(rand(2, 3), rand(4, 5))


def test_unsquared_distance_has_a_finite_gradient_at_zero():
    a = torch.zeros(1, 2, requires_grad=True)
    pairwise_distance(a, torch.zeros(1, 2), squared=False).sum().backward()
    assert a.grad.isfinite().all()


def test_rescale():
    x = rand(5, 3)
    torch.testing.assert_close(rescale(x, 3.0).norm(dim=1), torch.full((5,), 3.0).double())
    assert rescale(x, None) is x


@pytest.mark.parametrize("include_positive", [False, True])
def test_nca_equals_the_loop(include_positive):
    d_pos, d_neg, mask = rand(6).abs(), rand(6, 9, seed=1).abs(), rand(6, 9, seed=2) > 0
    mask[:, 0] = True
    fast = nca_loss(d_pos, d_neg, mask, include_positive)
    for i in range(6):
        total = sum(math.exp(-d) for d, m in zip(d_neg[i].tolist(), mask[i], strict=True) if m)
        total += math.exp(-d_pos[i]) if include_positive else 0
        assert fast[i].item() == pytest.approx(-math.log(math.exp(-d_pos[i]) / total), rel=1e-12)


def test_nca_by_hand():
    # d+ = 1, negatives at 2 and 2: 1 + log(2 e^-2) = log 2 - 1, negative and rightly so.
    loss = nca_loss(torch.tensor([1.0]), torch.tensor([[2.0, 2.0]]))
    assert loss.item() == pytest.approx(math.log(2) - 1)


def test_nca_gradient():
    d_pos, d_neg = rand(3).requires_grad_(), rand(3, 4, seed=1).requires_grad_()
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    assert torch.autograd.gradcheck(lambda a, b: nca_loss(a, b, mask), (d_pos, d_neg))


def test_nca_anchor_without_negative_has_no_loss_and_no_gradient():
    d_pos = torch.ones(2, requires_grad=True)
    mask = torch.tensor([[False, False], [True, False]])
    loss = nca_loss(d_pos, torch.ones(2, 2), mask)
    loss.sum().backward()
    assert loss[0] == 0
    assert d_pos.grad.tolist() == [0, 1]


def test_nca_at_large_scale_neither_overflows_nor_vanishes():
    d_neg = torch.tensor([[4000.0, 3000.0]], requires_grad=True)
    loss = nca_loss(torch.tensor([3500.0]), d_neg)
    loss.sum().backward()
    assert loss.item() == pytest.approx(500.0)
    assert d_neg.grad.tolist() == [[0, -1]]


def test_assign_by_label_refuses_gaps_and_other_types():
    assert assign_by_label(torch.tensor([1, 0, 1])).tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match=r"never occur: \[1\]"):
        assign_by_label(torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="expected 0 or more, got -1"):
        assign_by_label(torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="int64"):
        assign_by_label(torch.tensor([0.0, 1.0]))


def test_negatives_are_the_proxies_of_points_of_other_labels():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):  # any assignment: several proxies a label, several labels a proxy, unused
        labels = torch.randint(0, 4, (30,), generator=generator)
        assignment = torch.randint(0, 8, (30,), generator=generator)
        mask = negative_mask(exclusive_label(assignment, labels, 9), labels)
        for i in range(30):
            slow = {int(assignment[z]) for z in range(30) if labels[z] != labels[i]}
            assert set(mask[i].nonzero().flatten().tolist()) == slow


def test_exclusive_label_by_hand():
    exclusive = exclusive_label(torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 0, 0, 1, 1]), 4)
    assert exclusive.tolist() == [0, SHARED, 1, UNUSED]
    with pytest.raises(ValueError, match="expected proxies 0 … 1, got 0 … 2"):
        exclusive_label(torch.tensor([0, 2]), torch.tensor([0, 1]), 2)


def objective(labels, dim=3, **options):
    return ProxyNCA(labels, dim, torch.Generator().manual_seed(0), **options).double()


@pytest.mark.parametrize("norms", [(None, None), (2.0, 0.5)])
def test_proxy_nca_is_algorithm_1(norms):
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    made = objective(labels, embedding_norm=norms[0], proxy_norm=norms[1])
    x, anchors, positives = rand(4, 3), torch.tensor([0, 3, 4, 1]), torch.tensor([1, 2, 5, 0])
    points, proxies = rescale(x, norms[0]), rescale(made.proxies, norms[1])
    total = 0.0
    for u, a in zip(points, anchors, strict=True):
        d = [((u - p) ** 2).sum() for p in proxies]
        negatives = [d[k] for k in range(3) if k != labels[a]]
        total += d[labels[a]] + torch.stack([(-n).exp() for n in negatives]).sum().log()
    torch.testing.assert_close(made(x, anchors, positives), total / 4)


def test_proxy_nca_gradient_reaches_network_and_proxies():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    made = objective(labels)
    x = rand(4, 3).requires_grad_()
    made(x, torch.tensor([0, 2, 4, 5]), torch.tensor([1, 3, 5, 4])).backward()
    assert (x.grad.abs().sum(1) > 0).all()
    assert (made.proxies.grad.abs().sum(1) > 0).all()


def test_training_set_of_one_label_has_loss_zero():
    made = objective(torch.tensor([0, 0, 0]))
    loss = made(rand(2, 3), torch.tensor([0, 1]), torch.tensor([1, 2]))
    loss.backward()
    assert loss == 0
    assert made.proxies.grad.isfinite().all()


def test_no_tensor_larger_than_batch_by_proxies(monkeypatch):
    """11,318 proxies × 64 as on Stanford products: nothing of B×P×D or C×P is made."""
    labels = torch.arange(11_318)
    made = ProxyNCA(labels, 64, torch.Generator().manual_seed(0))
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, torch.Tensor):
                    sizes.append(tensor.numel())
            return out

    with Watch():
        made(torch.randn(32, 64), torch.arange(32), torch.arange(32)).backward()
    assert max(sizes) <= 11_318 * 64  # the proxies themselves; B×P is half of that
