"""Skip-gram and CBOW with the softmax over the whole vocabulary: matrix products of PyTorch, on the CPU or on CUDA.

A centre costs 6 V D multiply-adds (scores, and a product for each gradient), whatever its contexts are: V = 10,000 at
D = 100 takes 6 MFLOP, where negative sampling takes about 0.01. So this is for small vocabularies, and to compare with.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..config import TrainConfig
from ..corpus import Corpus
from ..windows import Windows, batches, draw_windows
from .base import learning_rate, torch_threads
from .skipgram import BatchMethod

STRETCH = 512  # ids whose sentences are cut into batches together
BATCH = 64  # centres: as many as make a good matrix product; a step takes their sum, so many more would overshoot


class FullSoftmax(BatchMethod):
    """Exact softmax: SGD on the sum of the losses of ``BATCH`` centres at a time.

    Skip-gram predicts each context from the centre's row (Mikolov et al., NIPS 2013, eq. 2), so that all contexts of a
    centre share one row of scores; CBOW predicts the centre from the mean or sum of its contexts.
    """

    def __init__(self, corpus: Corpus, config: TrainConfig, device: torch.device) -> None:
        super().__init__(corpus, config, device, rows=2 * len(corpus.vocab))

    def train(self, epoch: int, begin: int, end: int) -> tuple[float, int, int]:
        """Train on the stretches that start in ``ids[begin:end]``: the batches are the same for any cut."""
        config, ids, keep = self.config, self.ids.numpy(), self.keep.numpy().view(np.uint32)
        pairs = words = 0
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        with torch_threads(config.num_threads), torch.no_grad():
            for start in range(-(-begin // STRETCH) * STRETCH, end, 64 * STRETCH):  # so many are planned at a time
                stop = min(start + 64 * STRETCH, -(-end // STRETCH) * STRETCH, len(ids))
                windows = draw_windows(
                    *(ids, keep), begin=start, end=stop, window=config.window, slots=1, seed=config.seed, epoch=epoch
                )
                words += windows.kept
                for part in batches(windows, STRETCH, BATCH):
                    rate = learning_rate(config, len(ids), epoch, int(windows.starts[part.start]))
                    total += self._step(windows, part, rate)
                pairs += len(windows.words if config.model == "cbow" else windows.contexts)
        return float(total), pairs, words

    def _step(self, windows: Windows, part: slice, rate: float) -> Tensor:
        """One batch: its loss, and the weights moved against the gradient."""
        config, into, out = self.config, self.in_weight, self.weights["out_weight"]
        first = windows.first[part.start : part.stop + 1]
        number = torch.from_numpy(np.diff(first)).to(self.device)  # (B,) contexts of each centre
        centers = torch.from_numpy(windows.words[part]).to(self.device)  # (B,)
        contexts = torch.from_numpy(windows.contexts[first[0] : first[-1]]).to(self.device)  # (P,)
        rows = torch.arange(len(centers), device=self.device)
        of_context = rows.repeat_interleave(number)  # (P,) the centre that a context is of
        if config.model == "cbow":
            share = (1.0 / number).unsqueeze(1)  # (B, 1)
            hidden = into.new_zeros(len(centers), into.shape[1]).index_add_(0, of_context, into[contexts])
            if config.cbow_mean:
                hidden *= share
        else:
            hidden = into[centers]  # (B, D)
        scores = hidden @ out.T  # (B, V)
        log_sum = scores.logsumexp(1)
        scores.sub_(log_sum.unsqueeze(1))  # log-probabilities
        if config.model == "cbow":
            loss = -scores[rows, centers].double().sum()
            slope = scores.exp_()
            slope[rows, centers] -= 1
        else:
            loss = -scores[of_context, contexts].double().sum()
            slope = scores.exp_().mul_(number.unsqueeze(1))
            slope.index_put_((of_context, contexts), -torch.ones_like(contexts, dtype=slope.dtype), accumulate=True)
        grad = slope @ out  # (B, D)
        out.addmm_(slope.T, hidden, alpha=-rate)
        if config.model == "cbow":
            if config.cbow_divide_gradient:
                grad *= share
            into.index_add_(0, contexts, grad[of_context], alpha=-rate)
        else:
            into.index_add_(0, centers, grad, alpha=-rate)
        return loss
