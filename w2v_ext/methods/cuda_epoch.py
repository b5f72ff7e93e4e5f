"""An epoch on a CUDA device: what :class:`w2v_ext.Trainer` trains with there.

The tables, the noise and, where they fit, all ids of the corpus lie in the device's memory; a larger corpus streams
through two buffers there, one filled from page-locked memory while the kernel works on the other.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..config import TrainConfig
from .base import Method

CHUNK_IDS = 1 << 26  # of a corpus that streams: 256 MB, two of them on the host and two on the device
RESIDENT_SHARE = 0.7  # of the device's free memory that the ids may take; else they stream
WARPS_PER_MULTIPROCESSOR = 4  # one for each scheduler
HOT_COPIES = 64  # of the most frequent word's row at work at the same time
HOT_SUM_COPIES = 128  # of fastText's most frequent sum of rows, of which a word's vector is only one part of many
HOT_OUTPUT_COPIES = 256  # of a tree's root, which is held for one centre only
HOT_ROW_COPIES = 8  # of a word's row, from which on it is added to memory after every block: see hot_words
_ROW_BYTES = 32  # what the L2 cache reads at least
_NO_PLACE = 2**63 - 1


def choose_device(wanted: str) -> torch.device:
    """The device that ``cpu``, ``cuda`` or ``auto`` (CUDA where it can be used) stands for.

    Raises:
        RuntimeError: CUDA is wanted and cannot be used; the message says why.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    reason = None
    if torch.version.cuda is None:
        reason = f"PyTorch {torch.__version__} is a build without CUDA"
    elif not torch.cuda.is_available():
        reason = "PyTorch sees no CUDA device"
    elif not ops.has_cuda_kernels():
        reason = "w2v_ext was built without its CUDA kernels (build it where nvcc is, with W2V_EXT_CUDA=1)"
    if reason is None:
        device = torch.device("cuda", torch.cuda.current_device())
        failure = kernel_failure(device)
        if failure is None:
            return device
        reason = f"{device} does not run the kernels ({failure})"
        if wanted == "auto":
            warnings.warn(f"device: training on the CPU: {reason}", RuntimeWarning, stacklevel=2)
    if wanted == "cuda":
        raise RuntimeError(f"device: training on cuda is not available: {reason}; use --device cpu")
    return torch.device("cpu")


def kernel_failure(device: torch.device) -> str | None:
    """Why the epoch kernel does not run on a device (none was built for it, its memory is full, it is lost), if so."""
    try:
        weights = [device_weight(2, 1, torch.float32, device) for _ in range(2)]
        sums, bad = torch.zeros(3, dtype=torch.float64, device=device), torch.full((1,), _NO_PLACE, device=device)
        ids = torch.tensor([0, 1, -1], dtype=torch.int32, device=device)
        alias = ops.alias_table(torch.ones(2, dtype=torch.float64)).to(device)
        keep = torch.full((2,), -1, dtype=torch.int32, device=device)
        ops.train_sgns_cuda_(
            *(*weights, sums, bad, ids, alias, keep), first=0, num_ids=3, begin=0, end=3, window=1, negative=1, seed=0,
            epoch=0, epochs=1, lr=0.1, sentences_in_flight=1,
        )  # fmt: skip
        _, pairs, words = sums.tolist()  # waits
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return None if (pairs, words) == (2, 2) else f"of 2 words and 2 pairs it trained {words:g} and {pairs:g}"


def default_sentences_in_flight(
    multiprocessors: int, hottest: float, window: int, hottest_output: float = 0.0, copies: int = HOT_COPIES
) -> int:
    """As many as keep the device busy, but no more than let the most frequent word's row be learnt.

    While a word is within the window, a warp works on a copy of its row; the others do not see what it learns. With S
    sentences in flight the most frequent word has some ``S (2 window + 1) hottest`` copies at a time. Rows of outputs
    are held for one block only, ``S hottest_output`` copies of the hottest.

    Args:
        multiprocessors: of the device.
        hottest: the most frequent word's share of the words that subsampling leaves.
        window: the largest distance of a context.
        hottest_output: the share of centres that move the hottest output; the root of a tree is moved by all.
        copies: of the hottest row that there may be at a time.
    """
    of_rows = copies / max((2 * window + 1) * hottest, 1e-9)
    of_outputs = HOT_OUTPUT_COPIES / max(hottest_output, 1e-9)
    return max(1, int(min(WARPS_PER_MULTIPROCESSOR * multiprocessors, of_rows, of_outputs)))


def hot_words(sentences_in_flight: int, shares: np.ndarray, window: int) -> int:
    """How many of the first words are so frequent that what a sentence learns of their rows must not wait for long.

    A copy of a word's row is held while the word is within the window, some ``2 window + 2`` centres. Of these words
    there are more than ``HOT_ROW_COPIES`` copies at a time, which would all move the row from where it was: their rows
    are added to memory after every block of two centres, and fetched again.

    Args:
        sentences_in_flight: at a time.
        shares: (V,) of the words that subsampling leaves, the frequent words first.
        window: the largest distance of a context.
    """
    hot = np.flatnonzero(sentences_in_flight * (2 * window + 2) * np.asarray(shares) > HOT_ROW_COPIES)
    return int(hot[-1]) + 1 if len(hot) else 0


class CudaEpoch(Method):
    """Weights and corpus on a device, and the kernel that trains there.

    Args:
        device: a CUDA device.
        config: ``weight_dtype``, ``sentences_in_flight`` and the settings of training are used.
        in_weight: (V, D) float32 start of the word vectors, on the CPU; the output vectors start at zero.
        ids: (N,) int32 on the CPU, sentences of word ids, each closed by -1.
        alias, keep: noise and subsampling, as :func:`w2v_ext.ops.train_sgns_` takes them.
        shares: (V,) each word's share of the words that subsampling leaves; the largest is the hottest row's.
        hottest_output: see :func:`default_sentences_in_flight`.
        own_rows: whether each word has a row of its own, so that there are :func:`hot_words`.

    Attributes:
        in_weight, out_weight: (V, D) on the device, of ``config.weight_dtype``.
        sentences_in_flight: how many are.
        hot_words: see there.
    """

    points = 5  # at the end of a part the device waits for its last sentence

    def __init__(
        self,
        device: torch.device,
        config: TrainConfig,
        in_weight: Tensor,
        ids: Tensor,
        alias: Tensor,
        keep: Tensor,
        shares: np.ndarray,
        hottest_output: float = 0.0,
        own_rows: bool = True,
    ) -> None:
        self.device, self.config, self._host_ids = device, config, ids
        self._make_weights(in_weight)
        self.length = len(ids)
        self._alias, self._keep = alias.to(device), keep.to(device)
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)
        self._bad = torch.full((1,), _NO_PLACE, device=device)
        multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
        self.sentences_in_flight = config.sentences_in_flight or default_sentences_in_flight(
            *(multiprocessors, float(shares.max()), config.window, hottest_output),
            copies=HOT_COPIES if own_rows else HOT_SUM_COPIES,
        )
        self.hot_words = hot_words(self.sentences_in_flight, shares, config.window) if own_rows else 0
        free, _ = torch.cuda.mem_get_info(device)
        self.streams = 4 * len(ids) > RESIDENT_SHARE * free
        self._stream = _IdStream(ids, CHUNK_IDS, device) if self.streams else None
        self._ids = ids[:0].to(device) if self.streams else ids.to(device)
        self._launch(self._ids, 0, 0, 0, 0)  # trains on nothing, and checks what can be checked
        torch.cuda.current_stream(device).synchronize()  # train() may be called on another stream

    def _make_weights(self, in_weight: Tensor) -> None:
        dtype = torch.bfloat16 if self.config.weight_dtype == "bfloat16" else torch.float32
        self.in_weight, self.out_weight = (device_weight(*in_weight.shape, dtype, self.device) for _ in range(2))
        self.in_weight.copy_(in_weight)
        self.weights = {"in_weight": self.in_weight, "out_weight": self.out_weight}

    def train(self, epoch: int, begin: int, end: int) -> tuple[float, int, int]:
        """Train on the sentences that start in ``ids[begin:end]``; waits for the device.

        Returns:
            Loss (summed over pairs), pairs, and words after subsampling.

        Raises:
            IndexError: a word that is not in the vocabulary, with its place.
        """
        with torch.cuda.device(self.device):
            self._sums.zero_()
            if self._stream is None:
                self._launch(self._ids, 0, epoch, begin, end)
            else:
                for ids, first, start, stop in self._stream.parts(begin, end):
                    self._launch(ids, first, epoch, start, stop)
            loss, pairs, words = self._sums.tolist()  # waits
            place = int(self._bad.item())
        if place != _NO_PLACE:
            raise IndexError(
                f"ids: word {int(self._host_ids[place])} at position {place} is out of range for in_weight with "
                f"{len(self.in_weight)} rows"
            )
        return loss, int(pairs), int(words)

    @property
    def where(self) -> str:
        """What it trains on, in words: ``NVIDIA H200, 528 sentences in flight``."""
        return f"{torch.cuda.get_device_name(self.device)}, {self.sentences_in_flight} sentences in flight"

    def metrics(self) -> dict:
        """Device and its settings, as JSON."""
        return {
            "device": torch.cuda.get_device_name(self.device),
            "sentences_in_flight": self.sentences_in_flight,
        }

    def _launch(self, ids: Tensor, first: int, epoch: int, begin: int, end: int) -> None:
        config = self.config
        self._queue(
            ids,
            first=first,
            num_ids=len(self._host_ids),
            begin=begin,
            end=end,
            window=config.window,
            seed=config.seed,
            epoch=epoch,
            epochs=config.epochs,
            lr=config.lr,
            sentences_in_flight=self.sentences_in_flight,
            hot_words=self.hot_words,
        )

    def _queue(self, ids: Tensor, **settings: float) -> None:
        """Call the operator, with ids that lie on the device; a model of its own has another."""
        ops.train_sgns_cuda_(
            *(self.in_weight, self.out_weight, self._sums, self._bad, ids, self._alias, self._keep),
            negative=self.config.negative,
            **settings,
        )


def device_weight(vocab_size: int, dim: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A zero (V, D) view whose rows start on 32-byte boundaries, the L2 cache's own, and are padded with zeros."""
    numbers = _ROW_BYTES // dtype.itemsize
    return torch.zeros(vocab_size, -(-dim // numbers) * numbers, dtype=dtype, device=device)[:, :dim]


def sentence_start(ids: Tensor, place: int) -> int:
    """Where the sentence that holds ``ids[place]`` starts."""
    array = ids.numpy()
    step = 1 << 16
    for stop in range(place, 0, -step):
        ends = np.flatnonzero(array[max(stop - step, 0) : stop] < 0)
        if len(ends):
            return max(stop - step, 0) + int(ends[-1]) + 1
    return 0


def _page_locked(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.int32, pin_memory=True)


class _IdStream:
    """Chunks of whole sentences on their way to the device: while the kernel works on one, the next is copied."""

    def __init__(self, ids: Tensor, chunk: int, device: torch.device) -> None:
        self._ids, self._chunk = ids, min(chunk, max(len(ids), 1))
        self._host = [_page_locked(self._chunk) for _ in range(2)]
        self._held: list[tuple[int, int]] = [(0, 0), (0, 0)]  # words of the corpus in each buffer
        self._copied, self._trained = ([torch.cuda.Event() for _ in range(2)] for _ in range(2))
        self._copying = torch.cuda.Stream(device)
        with torch.cuda.stream(self._copying):  # whose memory they stay: a copy may outlive this object
            self._device = [torch.empty(self._chunk, dtype=torch.int32, device=device) for _ in range(2)]

    def parts(self, begin: int, end: int) -> Iterator[tuple[Tensor, int, int, int]]:
        """Cut ``begin`` to ``end`` by chunks: gives (ids on the device, their first place, begin, end) to queue."""
        while begin < end:
            slot = self._slot_of(begin)
            first, last = self._held[slot]
            stop = min(end, last)
            self._copied[slot].wait()  # the current stream waits, not the host
            try:
                yield self._device[slot][: last - first], first, begin, stop
            finally:  # also where Ctrl-C comes in between
                self._trained[slot].record()
            following = last if last < len(self._ids) else 0
            if following != first and (self._held[1 - slot][0] != following or self._held[1 - slot] == (0, 0)):
                self._fill(1 - slot, following)  # while the device trains
            begin = stop

    def _slot_of(self, place: int) -> int:
        for slot, (first, last) in enumerate(self._held):
            if first <= place < last:
                return slot
        self._fill(0, sentence_start(self._ids, place))
        return 0

    def _fill(self, slot: int, first: int) -> None:
        last = ops.chunk_end(self._ids, first, self._chunk)
        self._held[slot] = (0, 0)  # until it is filled: whatever comes in between, no half of it is trained on
        self._copied[slot].synchronize()  # the copy before this one has left the page-locked memory
        self._host[slot][: last - first].copy_(self._ids[first:last])
        with torch.cuda.stream(self._copying):
            self._trained[slot].wait()  # the kernel before this one has read the buffer
            self._device[slot][: last - first].copy_(self._host[slot][: last - first], non_blocking=True)
            self._copied[slot].record()
        self._held[slot] = (first, last)
