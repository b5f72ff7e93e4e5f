"""Optimisers for embedding weights: each step touches the rows that the batch touched, and no others.

>>> model = w2v_ext.SkipGramNegSampling(71_000, 128, sparse_grad=True)
>>> optimizer = w2v_ext.optim.RowwiseAdagrad(model.parameters(), lr=0.05)
>>> model(center, pos, neg).backward()
>>> optimizer.step()

One compiled pass per weight reads each touched row's gradient, steps its state and its weight, and writes them back; on
the CPU, several values of a row (``nn.Embedding(sparse=True)`` gives them so) are summed on the way.

What "lazy" means: rows without a gradient keep weight and state as they are. Momentum does not go on moving them,
averages do not fade, weights do not decay. Where every row has a gradient in every step, and for plain SGD and AdaGrad
without weight decay in any case, the steps are those of ``torch.optim.SGD``, ``Adagrad``, ``Adam`` and ``AdamW``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from . import row_steps as steps
from .reference import mix64

__all__ = ["LazyAdam", "RowwiseAdagrad", "SparseAdagrad", "SparseSGD"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class RowOptimizer(torch.optim.Optimizer):
    """What the optimisers of this module share; not to be used by itself.

    Gradients are sparse COO tensors (coalesced or not), or dense, which touch every row. Weights are of shape (V, D) in
    float32, float64, bfloat16 or float16; state is kept in float32 (float64 for float64 weights), also through
    ``state_dict`` and ``load_state_dict``.

    Settings of every group, beside the optimiser's own:

    - ``weight_decay`` (0): added to the gradient, as ``torch.optim.SGD`` does, or with ``decoupled=True`` taken off the
      weight, as ``AdamW`` does; on touched rows only.
    - ``clip_row_norm`` (None): each row's gradient is at most this long.
    - ``clip_norm`` (None): the gradients of the whole group, all touched rows together, are at most this long, as
      ``torch.nn.utils.clip_grad_norm_`` has it; after ``clip_row_norm``.
    - ``max_norm`` (None): touched rows longer than this after the step are shortened to it.
    - ``stochastic_rounding`` (False), ``seed`` (0): for bfloat16 weights, in which steps below half a unit of a number
      (2^-9 of it) are otherwise lost.

    Raises:
        ValueError: a setting out of range, or a parameter or gradient that is not of this kind.
    """

    _shared = {
        "weight_decay": 0.0,
        "decoupled": False,
        "clip_row_norm": None,
        "clip_norm": None,
        "max_norm": None,
        "stochastic_rounding": False,
        "seed": 0,
    }
    _begun_later: tuple[str, ...] = ()  # state that the first step after a change of settings makes

    def __init__(self, params: Iterable, own: dict[str, Any], shared: dict[str, Any]) -> None:
        for name in shared:
            if name not in self._shared:
                known = ", ".join((*own, *self._shared))
                raise TypeError(f"{type(self).__name__}: unknown setting {name!r}; known: {known}")
        super().__init__(params, {**own, **self._shared, **shared})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; see ``torch.optim.Optimizer.add_param_group``."""
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def _check_group(self, group: dict[str, Any]) -> None:
        for p in group["params"]:
            if p.dim() != 2 or p.dtype not in _DTYPES:
                raise ValueError(
                    "params: expected weights of shape (V, D) in float32, float64, bfloat16 or float16, got "
                    f"{p.dtype} of shape {tuple(p.shape)}; give other parameters to an optimizer of torch.optim"
                )
            if group["stochastic_rounding"] and p.dtype != torch.bfloat16:
                raise ValueError(f"stochastic_rounding: expected bfloat16 weights, got {p.dtype}")
        for name in ("lr", "weight_decay"):
            if not 0 <= group[name] < math.inf:
                raise ValueError(f"{name}: expected a finite number >= 0, got {group[name]!r}")
        for name in ("clip_row_norm", "clip_norm", "max_norm"):
            if group[name] is not None and not 0 < group[name] < math.inf:
                raise ValueError(f"{name}: expected a finite number > 0 or None, got {group[name]!r}")
        if isinstance(group["seed"], bool) or not isinstance(group["seed"], int) or not 0 <= group["seed"] < 2**63:
            raise ValueError(f"seed: expected an integer in [0, 2^63), got {group['seed']!r}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step with the gradients at hand; ``closure`` evaluates the model first, and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            touched = [p for p in group["params"] if p.grad is not None]
            for weight in touched:  # before any of them is stepped
                self._check_state(group, self.state[weight])
            gradients = [rows_and_values(p.grad) for p in touched]
            scales = self._clip(group, touched, gradients) if group["clip_norm"] is not None and touched else {}
            for i, (weight, (rows, values)) in enumerate(zip(touched, gradients, strict=True)):
                state = self.state[weight]
                if not state:
                    state.update(step=0, **self._new_state(weight, group))
                state["step"] += 1
                common = {name: group[name] for name in ("weight_decay", "decoupled", "clip_row_norm", "max_norm")}
                if group["stochastic_rounding"]:
                    common["seed"] = mix64((mix64(mix64(group["seed"]) + state["step"]) + i) % 2**64) >> 1
                torch.autograd.graph.increment_version(weight)  # a graph that has saved it must notice
                self._step_rows(
                    group, state, (weight, rows, values), {**common, "grad_scale": scales.get(weight.device)}
                )
        return loss

    def _clip(self, group: dict[str, Any], weights: list[Tensor], gradients: list) -> dict[torch.device, Tensor]:
        """The factor of all gradients, on each of their devices."""
        squares = [
            steps.square_norm(weight, *gradient, group["clip_row_norm"])
            for weight, gradient in zip(weights, gradients, strict=True)
        ]
        total = torch.stack([square.to(squares[0].device) for square in squares]).sum()
        scale = steps.scale_to(total, group["clip_norm"])
        return {square.device: scale.to(square.device) for square in squares}

    def _check_state(self, group: dict[str, Any], state: dict[str, Any]) -> None:
        """ValueError where the settings of a group no longer go with the state of one of its weights."""

    def _new_state(self, weight: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        raise NotImplementedError

    def _step_rows(self, group: dict[str, Any], state: dict, where: tuple, common: dict[str, Any]) -> None:
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave; also from that of the optimizer of ``torch.optim`` with the same state.

        Raises:
            ValueError: state of another shape, or of another optimizer, or settings that this one lacks (maximize,
                amsgrad, dampening). The optimizer is then as it was.
        """
        groups, restored = [], {}
        for saved, own in zip(state_dict["param_groups"], self.param_groups, strict=False):  # super compares numbers
            group = self._settings_of(saved)
            groups.append(group)
            self._check_group({**group, "params": own["params"]})
            for key, weight in zip(saved["params"], own["params"], strict=False):
                if of_weight := state_dict["state"].get(key):
                    restored[weight] = self._restored(of_weight, weight, group)
        groups += state_dict["param_groups"][len(groups) :]
        super().load_state_dict({**state_dict, "param_groups": groups})
        self.state.update(restored)  # super's copy has 16 bits where the weight has

    def _settings_of(self, saved: dict[str, Any]) -> dict[str, Any]:
        """A saved group, also one of torch.optim, with all of this optimizer's settings."""
        for name in ("maximize", "amsgrad", "dampening"):
            if saved.get(name):
                raise ValueError(f"state_dict: expected {name}={type(saved[name])(0)}, got {saved[name]}")
        group = {**self.defaults, **saved}
        if "decoupled" not in saved:
            group["decoupled"] = bool(saved.get("decoupled_weight_decay", self.defaults["decoupled"]))
        return group

    def _restored(self, saved: dict[str, Any], weight: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        state: dict[str, Any] = {"step": int(saved["step"])} if "step" in saved else {"step": 0}
        for name, fresh in self._new_state(weight, group).items():
            if name in self._begun_later and set(saved) == {"step"}:
                state[name] = fresh
                continue
            if name not in saved:
                raise ValueError(f"state_dict: expected {name} for each weight, got {', '.join(saved)}")
            if saved[name].shape != fresh.shape:
                raise ValueError(
                    f"state_dict: expected {name} of shape {tuple(fresh.shape)}, got {tuple(saved[name].shape)}"
                )
            state[name] = fresh.copy_(saved[name])
        return state


def rows_and_values(grad: Tensor) -> tuple[Tensor | None, Tensor]:
    """A gradient as rows (N,) and values (N, D), on CUDA each row once; (None, (V, D)) of a dense one."""
    if grad.layout == torch.strided:
        return None, grad
    if grad.layout != torch.sparse_coo or grad.sparse_dim() != 1:
        raise ValueError(
            f"grad: expected a dense gradient, or a sparse COO one of whole rows (sparse_dim 1), got {grad.layout}"
            + (f" with sparse_dim {grad.sparse_dim()}" if grad.layout == torch.sparse_coo else "")
        )
    rows = grad._indices()[0]
    # Autograd loses the mark of a coalesced gradient: look again, which costs less than to sort.
    if grad.is_cuda and not grad.is_coalesced() and not bool((rows[1:] > rows[:-1]).all()):
        grad = grad.coalesce()
    return grad._indices()[0], grad._values()


def _table(weight: Tensor, *, per_row: bool = False, fill: float = 0.0) -> Tensor:
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    return torch.full(weight.shape[:1] if per_row else weight.shape, fill, dtype=dtype, device=weight.device)


class SparseSGD(RowOptimizer):
    """Stochastic gradient descent on the touched rows, with momentum on request.

    Args:
        params: weights (V, D), or groups of them.
        lr: learning rate.
        momentum: in [0, 1). The buffer of a row fades only when the row is touched.
        nesterov: Nesterov's form of it.
        **shared: see :class:`RowOptimizer`.

    Equals ``torch.optim.SGD`` (without dampening) where momentum and weight decay are 0, or every row is touched.
    """

    _begun_later = ("momentum_buffer",)

    def __init__(
        self, params: Iterable, lr: float = 1e-3, momentum: float = 0.0, nesterov: bool = False, **shared: Any
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov}, shared)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        if not 0 <= group["momentum"] < 1:
            raise ValueError(f"momentum: expected a number in [0, 1), got {group['momentum']!r}")
        if group["nesterov"] and group["momentum"] == 0:
            raise ValueError("nesterov: expected momentum > 0, got 0")

    def _new_state(self, weight: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        return {"momentum_buffer": _table(weight)} if group["momentum"] > 0 else {}

    def _step_rows(self, group: dict[str, Any], state: dict, where: tuple, common: dict[str, Any]) -> None:
        if group["momentum"] > 0 and "momentum_buffer" not in state:  # the setting was changed during the training
            state.update(self._new_state(where[0], group))
        steps.sparse_sgd_(
            *where,
            lr=group["lr"],
            momentum=group["momentum"],
            nesterov=group["nesterov"],
            momentum_buffer=state["momentum_buffer"] if group["momentum"] > 0 else None,
            **common,
        )


class SparseAdagrad(RowOptimizer):
    """AdaGrad (Duchi et al. 2011) on the touched rows, with a sum of squared gradients for every number.

    Args:
        params: weights (V, D), or groups of them.
        lr: learning rate.
        lr_decay: the rate of step t is ``lr / (1 + (t - 1) * lr_decay)``.
        eps: added to the root of the sum.
        initial_accumulator_value: of the sums.
        **shared: see :class:`RowOptimizer`.

    Equals ``torch.optim.Adagrad`` where weight decay is 0, or every row is touched.
    """

    _per_row = False

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        eps: float = 1e-10,
        initial_accumulator_value: float = 0.0,
        **shared: Any,
    ) -> None:
        own = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "initial_accumulator_value": initial_accumulator_value}
        super().__init__(params, own, shared)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        for name in ("lr_decay", "eps", "initial_accumulator_value"):
            if not 0 <= group[name] < math.inf:
                raise ValueError(f"{name}: expected a finite number >= 0, got {group[name]!r}")

    def _new_state(self, weight: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        return {"sum": _table(weight, per_row=self._per_row, fill=group["initial_accumulator_value"])}

    def _step_rows(self, group: dict[str, Any], state: dict, where: tuple, common: dict[str, Any]) -> None:
        lr = group["lr"] / (1 + (state["step"] - 1) * group["lr_decay"])
        steps.sparse_adagrad_(*where, lr=lr, sum=state["sum"], eps=group["eps"], **common)


class RowwiseAdagrad(SparseAdagrad):
    """AdaGrad with one number of state per row: the sum of the mean squared gradients of the row.

    A 1 / D of :class:`SparseAdagrad`'s state; the form that is common for large embedding tables (Gupta et al. 2014;
    fbgemm's ``EXACT_ROWWISE_ADAGRAD``). Arguments as there; ``torch.optim`` has no counterpart.
    """

    _per_row = True


class LazyAdam(RowOptimizer):
    """Adam (Kingma and Ba 2015) on the touched rows; the moments of the others stand still.

    Args:
        params: weights (V, D), or groups of them.
        lr: learning rate.
        betas: of the averages of gradients and squared gradients.
        eps: added to the root.
        per_row_steps: correct the bias of the averages by the number of steps of the row, instead of all steps. A row
            that is first touched late otherwise has averages that hold 1 - beta of its gradient and are taken for full
            ones: its first step is 0.1 / sqrt(0.001) = 3.2 times ``lr``.
        **shared: see :class:`RowOptimizer`.

    Equals ``torch.optim.Adam`` (``AdamW`` with ``decoupled=True``) where every row is touched in every step, and
    ``torch.optim.SparseAdam`` in any case but for ``eps``, which that one scales by sqrt(1 - beta2^t).
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        per_row_steps: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "per_row_steps": per_row_steps}, shared)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        if len(group["betas"]) != 2 or not all(0 <= beta < 1 for beta in group["betas"]):
            raise ValueError(f"betas: expected two numbers in [0, 1), got {group['betas']!r}")
        if not 0 <= group["eps"] < math.inf:
            raise ValueError(f"eps: expected a finite number >= 0, got {group['eps']!r}")

    def _check_state(self, group: dict[str, Any], state: dict[str, Any]) -> None:
        if state and group["per_row_steps"] and "row_steps" not in state:
            raise ValueError("per_row_steps: expected to stay as it was in the first step, got True")

    def _new_state(self, weight: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state = {"exp_avg": _table(weight), "exp_avg_sq": _table(weight)}
        if group["per_row_steps"]:
            state["row_steps"] = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
        return state

    def _step_rows(self, group: dict[str, Any], state: dict, where: tuple, common: dict[str, Any]) -> None:
        moments = {name: state[name] for name in ("exp_avg", "exp_avg_sq", "step")}
        moments["row_steps"] = state["row_steps"] if group["per_row_steps"] else None
        steps.sparse_adam_(*where, lr=group["lr"], betas=group["betas"], eps=group["eps"], **moments, **common)
