"""Skip-gram and CBOW with negative sampling by an optimiser's steps, a batch of centres at a time: AdaGrad, Adam, SGD
with momentum, weight decay, clipping, rows kept short.

The epoch kernels do plain SGD, window by window, many times as fast. Here a batch is one call of the fused loss, whose
sparse gradients go to the row-wise optimisers (``w2v_ext.row_steps``), which touch no other rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .. import ops, row_steps
from ..config import TrainConfig
from ..corpus import Corpus
from ..optim import rows_and_values
from ..reference import mix64
from ..windows import Windows, batches, draw_windows
from .base import learning_rate, torch_threads
from .skipgram import BatchMethod

STATE = {  # tables of an optimiser's state, for each weight: name, and whether it has a number per row only
    "sgd": {"momentum_buffer": False},
    "adagrad": {"sum": False},
    "rowwise-adagrad": {"sum": True},
    "adam": {"exp_avg": False, "exp_avg_sq": False, "row_steps": True},
}


class Batched(BatchMethod):
    """Negative sampling, ``config.batch_size`` centres to a step, with the gradient of the sum of their losses.

    A pair of skip-gram has a context's row of ``in_weight`` and the centre's of ``out_weight``; a centre of CBOW the
    mean or sum of its contexts. Each has negatives of its own, drawn again where they are the centre. Moments and
    momentum of a row stand still while no batch touches it, and Adam corrects the bias of its averages by the steps of
    the row.

    Attributes:
        weights: ``in_weight``, ``out_weight``, and the optimiser's state of both, as ``in_weight.sum`` (V, D).
    """

    def __init__(self, corpus: Corpus, config: TrainConfig, device: torch.device) -> None:
        state = STATE[config.optimizer] if config.optimizer != "sgd" or config.momentum > 0 else {}
        here = 0 if device.type == "cuda" else sum(not per_row for per_row in state.values())  # a GPU has its own
        super().__init__(corpus, config, device, rows=2 * (1 + here) * len(corpus.vocab))
        for name in ("in_weight", "out_weight"):
            for table, per_row in state.items():
                shape = (len(self.in_weight),) if per_row else self.in_weight.shape
                dtype = torch.int32 if table == "row_steps" else torch.float32
                self.weights[f"{name}.{table}"] = torch.zeros(shape, dtype=dtype, device=device)
        self._stretch = max(4096, 8 * config.batch_size)  # ids whose sentences are cut into batches together

    @property
    def where(self) -> str:
        """What it trains on, in words: ``2 threads, adam`` or ``cuda:0, adam``."""
        return f"{super().where}, {self.config.optimizer}"

    def train(self, epoch: int, begin: int, end: int) -> tuple[float, int, int]:
        """Train on the stretches that start in ``ids[begin:end]``: the batches are the same for any cut."""
        config, ids, keep = self.config, self.ids.numpy(), self.keep.numpy().view(np.uint32)
        pairs = words = 0
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        with torch_threads(config.num_threads):
            for start in range(-(-begin // self._stretch) * self._stretch, end, 16 * self._stretch):
                stop = min(start + 16 * self._stretch, -(-end // self._stretch) * self._stretch, len(ids))
                windows = draw_windows(
                    *(ids, keep), begin=start, end=stop, window=config.window, slots=1, seed=config.seed, epoch=epoch
                )
                words += windows.kept
                last = number = -1  # stretch of the batch before, and which batch of it that was
                for part in batches(windows, self._stretch, config.batch_size):
                    place = int(windows.starts[part.start])
                    number = number + 1 if place // self._stretch == last else 0
                    last = place // self._stretch
                    rate = learning_rate(config, len(ids), epoch, place)
                    total += self._step(windows, part, batch_seed(config.seed, epoch, last, number), rate)
                pairs += len(windows.words if config.model == "cbow" else windows.contexts)
        return float(total), pairs, words

    def _step(self, windows: Windows, part: slice, seed: int, rate: float) -> Tensor:
        """One batch: its loss, and both weights stepped."""
        config = self.config
        into, out = (self.weights[name].detach().requires_grad_() for name in ("in_weight", "out_weight"))
        first = windows.first[part.start : part.stop + 1]
        number = torch.from_numpy(np.diff(first)).to(self.device)  # (B,) contexts of each centre
        centers = torch.from_numpy(windows.words[part])  # (B,)
        contexts = torch.from_numpy(windows.contexts[first[0] : first[-1]]).to(self.device)  # (P,)
        of_context = torch.arange(len(centers), device=self.device).repeat_interleave(number)  # (P,) its centre
        if config.model == "cbow":
            positive = centers
            with torch.no_grad():
                hidden = into.new_zeros(len(centers), into.shape[1]).index_add_(0, of_context, into[contexts])
                share = (1.0 / number).unsqueeze(1)  # (B, 1)
                hidden = hidden * share if config.cbow_mean else hidden
            hidden.requires_grad_()
        else:
            positive = centers.to(self.device)[of_context].cpu()  # (P,)
        negative = ops.sample_negatives(self.alias, positive, config.negative, seed).to(self.device)
        positive = positive.to(self.device)
        if config.model == "cbow":
            rows = torch.arange(len(centers), device=self.device)
            losses = ops.negative_sampling_loss(
                hidden, out, rows, positive[:, None], negative, reduction="none", sparse_grad=True
            )
        else:
            losses = ops.negative_sampling_loss(
                into, out, contexts, positive[:, None], negative, reduction="none", sparse_grad=True
            )
        losses.sum().backward()
        gradients = [rows_and_values(into.grad) if into.grad is not None else None, rows_and_values(out.grad)]
        if config.model == "cbow":
            grad = hidden.grad.to_dense() if hidden.grad.is_sparse else hidden.grad
            grad = grad * share if config.cbow_divide_gradient else grad
            of_words = torch.sparse_coo_tensor(contexts[None], grad[of_context], into.shape, check_invariants=False)
            gradients[0] = rows_and_values(of_words)
        self._step_rows(gradients, rate)
        return losses.detach().sum(dtype=torch.float64)

    @torch.no_grad()
    def _step_rows(self, gradients: list, rate: float) -> None:
        config = self.config
        scale = None
        names = ("in_weight", "out_weight")
        if config.clip_norm > 0:
            squares = [
                row_steps.square_norm(self.weights[name], *gradient)
                for name, gradient in zip(names, gradients, strict=True)
            ]
            scale = row_steps.scale_to(squares[0] + squares[1], config.clip_norm)
        common = {
            "weight_decay": config.weight_decay,
            "decoupled": config.optimizer == "adam",
            "grad_scale": scale,
            "max_norm": config.max_norm or None,
            "lr": rate,
        }
        for name, gradient in zip(names, gradients, strict=True):
            state = {table: self.weights.get(f"{name}.{table}") for table in STATE[config.optimizer]}
            where = (self.weights[name], *gradient)
            if config.optimizer == "sgd":
                row_steps.sparse_sgd_(*where, momentum=config.momentum, **state, **common)
            elif config.optimizer == "adam":
                row_steps.sparse_adam_(*where, **state, **common)
            else:
                row_steps.sparse_adagrad_(*where, **state, **common)


def batch_seed(seed: int, *place: int) -> int:
    """Of a batch's negatives, in [0, 2^63): by its place in the run alone."""
    for number in place:
        seed = mix64((mix64(seed) + number) % 2**64)
    return seed >> 1
