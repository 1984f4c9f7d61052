"""Adam for proxies of which a step touches a few."""

import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor


class LazyAdam(torch.optim.Adam):
    """Adam whose step costs as many rows as a sparse gradient has, not as the parameter has.

    Rows without a gradient keep their value and both moments, while Adam lets them drift on; the
    correction of the moments' start counts all steps. Everything whose gradient is dense, e.g. a
    network, moves as by `torch.optim.Adam`. The moments themselves are as large as the parameter.

    Args:
        params, lr, betas, eps, weight_decay: as in `torch.optim.Adam`.

    Raises:
        ValueError: in `step`, a sparse gradient in a group with weight decay, which would have to
            touch every row.

    Example:
        >>> loss_fn = ProxyNCA(1000, 64, n_negatives=10, shared_negatives=True, sparse=True)
        >>> optimizer = LazyAdam(loss_fn.parameters(), lr=0.1)
        >>> loss_fn(torch.randn(8, 64), torch.arange(8)).backward()
        >>> optimizer.step()  # moves 18 proxies at most
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, lr, betas, eps, weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step; `closure`, if given, computes the loss again and is called first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sparse = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    self._step_rows(parameter, group)
                    sparse.append((parameter, parameter.grad))
                    parameter.grad = None
        inspect.unwrap(torch.optim.Adam.step)(self)  # its wrapper would call the hooks again
        for parameter, gradient in sparse:
            parameter.grad = gradient
        return loss

    def _step_rows(self, parameter: Tensor, group: dict) -> None:
        if group["weight_decay"]:
            raise ValueError(f"weight_decay={group['weight_decay']}: expected 0 with sparse=True")
        gradient = parameter.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()  # (R,), (R, D)
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        (beta1, beta2), step = group["betas"], state["step"].item()
        tables = (parameter, state["exp_avg"], state["exp_avg_sq"])
        moved, first, second = (table.index_select(0, rows) for table in tables)  # (R, D)
        first.lerp_(values, 1 - beta1)
        second.mul_(beta2).addcmul_(values, values, value=1 - beta2)
        length = second.sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
        moved.addcdiv_(first, length, value=-group["lr"] / (1 - beta1**step))
        for table, changed in zip(tables, (moved, first, second), strict=True):
            table.index_copy_(0, rows, changed)
