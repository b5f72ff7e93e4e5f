"""The training loop on the direct path: slices of the mapped corpus go to the in-place kernel, one after the other.

The kernel's draws and learning rate depend on the place in the corpus alone, so where a slice ends changes nothing:
with one thread a run that was interrupted and resumed gives the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import signal
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import ops
from .config import TrainConfig
from .corpus import Corpus
from .cuda_epoch import CudaEpoch, choose_device
from .files import write_files
from .keyedvectors import KeyedVectors
from .packages import import_package

CHECKPOINT = "checkpoint.safetensors"
_ROW_FLOATS = 16  # rows are padded to 64 bytes, a cache line and the widest vector
_HUGE_PAGE = 2 << 20  # bytes
_SLICE_SECONDS = 0.2  # between two looks at the clock, the keyboard and the progress bar


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to change."""


class Interrupted(Exception):
    """Training was stopped by Ctrl-C; the checkpoint it names is complete."""

    def __init__(self, checkpoint: Path | None) -> None:
        super().__init__(f"interrupted; checkpoint in {checkpoint}" if checkpoint else "interrupted")
        self.checkpoint = checkpoint


@dataclass
class TrainState:
    """How far a run is, and what it has summed up."""

    epoch: int = 0
    position: int = 0  # in corpus.ids, within the epoch
    epoch_loss: float = 0.0  # sums over this epoch so far
    epoch_pairs: int = 0
    words: int = 0  # words trained on, after subsampling
    train_seconds: float = 0.0
    losses: list[float | None] = field(default_factory=list)  # mean per pair, of each finished epoch; None: no pair
    history: dict[str, list] = field(default_factory=dict)  # what monitor.HistoryMonitor records, if there is one


def padded_weight(vocab_size: int, dim: int) -> Tensor:
    """A zero (V, D) float32 view whose rows start on 64-byte boundaries, as the in-place kernels want them.

    Large tables lie in huge pages where the system has them: their rows are visited at random, and with small pages
    nearly every visit misses the TLB (measured: 5 % of the training speed with 49,000 words).
    """
    stride = -(-dim // _ROW_FLOATS) * _ROW_FLOATS
    size = vocab_size * stride  # floats
    if 4 * size >= _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory = mmap.mmap(-1, 4 * size + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError) as error:
            raise MemoryError(
                f"dim: a table of {vocab_size} words x {dim} takes {4 * size / 2**30:.1f} GiB, more than there is; "
                "lower dim, or the vocabulary by max_vocab or min_count"
            ) from error
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
        buffer, boundary = torch.frombuffer(memory, dtype=torch.float32), _HUGE_PAGE
    else:
        buffer, boundary = torch.zeros(size + _ROW_FLOATS), 4 * _ROW_FLOATS
    offset = -buffer.data_ptr() % boundary // 4
    return buffer[offset : offset + size].view(vocab_size, stride)[:, :dim]


def keep_thresholds(probabilities: np.ndarray) -> Tensor:
    """(V,) int32 with the bits of uint32 thresholds: 32 random bits are at most this with the given probability."""
    scaled = np.clip(np.rint(np.asarray(probabilities, np.float64) * 2.0**32) - 1, 0, 2**32 - 1)
    return torch.from_numpy(scaled.astype(np.uint32).view(np.int32))


class Trainer:
    """Trains skip-gram vectors with negative sampling on an encoded corpus.

    Args:
        corpus: from :func:`w2v_ext.prepare_corpus`.
        config: the settings; ``corpus``, ``tokenizer`` and the other settings of the text are not used here.

    Attributes:
        device: where it trains, as ``config.device`` asks.
        in_weight, out_weight: (V, D) of ``config.weight_dtype`` on that device, updated in place by :meth:`fit`.
        state: how far the run is.
        slice_loss: mean loss per pair of the slice just trained on; NaN without pairs.

    Example::

        corpus = w2v_ext.prepare_corpus("text.txt")
        trainer = w2v_ext.Trainer(corpus, w2v_ext.TrainConfig(dim=100, epochs=5))
        trainer.fit()
        vectors = trainer.keyed_vectors()
    """

    def __init__(self, corpus: Corpus, config: TrainConfig) -> None:
        try:
            self.device = choose_device(config.device)
        except RuntimeError as error:
            raise TrainingError(str(error)) from None
        if config.weight_dtype != "float32" and self.device.type == "cpu":
            raise TrainingError(f"weight_dtype: {config.weight_dtype} is for training on cuda, got a CPU to train on")
        vocab = corpus.vocab
        if len(vocab) - vocab.num_specials < 2:
            raise ValueError(f"corpus: expected at least two words in the vocabulary, got {len(vocab)}")
        self.corpus, self.config, self.state = corpus, config, TrainState()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self._ids = torch.from_numpy(np.asarray(corpus.ids))  # never written to
        self._alias = ops.alias_table(torch.from_numpy(vocab.noise_distribution(config.noise_power)))
        keep = vocab.keep_probabilities(config.sample)
        self._keep = keep_thresholds(keep)
        generator = torch.Generator().manual_seed(config.seed)
        self.in_weight = padded_weight(len(vocab), config.dim)
        self.in_weight.uniform_(-0.5 / config.dim, 0.5 / config.dim, generator=generator)
        if vocab.num_specials:
            self.in_weight[0] = 0  # <PAD>
        self._cuda = None
        if self.device.type == "cuda":
            left = np.asarray(vocab.counts, np.float64) * keep
            self._cuda = self._start_cuda(float(left.max() / max(left.sum(), 1e-300)))
        if self._cuda is not None:
            self.in_weight, self.out_weight = self._cuda.in_weight, self._cuda.out_weight
        else:
            self.out_weight = padded_weight(len(vocab), config.dim)
        self.slice_loss = float("nan")
        self._stop = False

    def _start_cuda(self, hottest: float) -> CudaEpoch | None:
        """Tables and corpus on the device; None, and the CPU, where they do not fit and ``auto`` leaves the choice."""
        config = self.config
        try:
            return CudaEpoch(self.device, config, self.in_weight, self._ids, self._alias, self._keep, hottest)
        except (torch.OutOfMemoryError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            if config.device != "auto" or config.weight_dtype != "float32":
                if isinstance(error, ValueError):
                    raise
                raise TrainingError(
                    f"device: {len(self.corpus.vocab)} words x {config.dim} do not fit {self.device} ({reason}); use "
                    "--device cpu, or lower dim, or the vocabulary by max_vocab or min_count"
                ) from error
        warnings.warn(f"device: training on the CPU: {self.device} cannot: {reason}", RuntimeWarning, stacklevel=3)
        self.device = torch.device("cpu")
        return None

    @property
    def total_words(self) -> int:
        """Words of the whole run, before subsampling."""
        return self.corpus.num_tokens * self.config.epochs

    @property
    def words_done(self) -> int:
        """Words read so far, before subsampling (interpolated within an epoch)."""
        done = self.state.epoch + self.state.position / max(len(self._ids), 1)
        return int(self.corpus.num_tokens * done)

    @property
    def where(self) -> str:
        """What it trains on, in words: ``2 threads, avx512`` or ``NVIDIA H200, 528 sentences in flight``."""
        if self._cuda is not None:
            name = torch.cuda.get_device_name(self.device)
            return f"{name}, {self._cuda.sentences_in_flight} sentences in flight"
        return f"{self.config.num_threads} threads, {ops.cpu_kernels()}"

    @property
    def lr(self) -> float:
        """The learning rate at this point of the run."""
        done = (self.state.epoch + self.state.position / max(len(self._ids), 1)) / self.config.epochs
        return self.config.lr * max(1 - done, 1e-4)

    @property
    def loss(self) -> float:
        """Mean loss per pair of the current epoch so far, or of the last one at an epoch's end; NaN without pairs."""
        if self.state.epoch_pairs:
            return self.state.epoch_loss / self.state.epoch_pairs
        last = self.state.losses[-1] if self.state.losses else None
        return float("nan") if last is None else last

    def fit(
        self,
        *,
        on_progress: Callable[[Trainer], None] | None = None,
        on_epoch: Callable[[Trainer], None] | None = None,
        checkpoint_dir: str | Path | None = None,
    ) -> Trainer:
        """Train to the end of the last epoch.

        Args:
            on_progress: called a few times a second with this trainer.
            on_epoch: called after each epoch.
            checkpoint_dir: where to save a checkpoint on Ctrl-C and every ``config.checkpoint_minutes``.

        Raises:
            Interrupted: after Ctrl-C, with the checkpoint saved.
            TrainingError: the loss is no longer finite (the last checkpoint is kept), or there was no pair to train on.
        """
        state, config = self.state, self.config
        most = min(max(len(self._ids) * config.epochs // 50, 1 << 16), 1 << 28)  # a short run's curves have 50 points
        ids_per_slice, last_save = min(1 << 18, most), time.monotonic()
        with _StopOnInterrupt(self):
            while state.epoch < config.epochs:
                end = state.position + ids_per_slice
                if end + ids_per_slice // 2 > len(self._ids):
                    end = len(self._ids)  # and no crumb after it: its loss would be noise
                seconds = self._train_slice(end)
                ids_per_slice = int(min(max(ids_per_slice * _SLICE_SECONDS / max(seconds, 1e-3), 1 << 14), most))
                if end == len(self._ids):
                    self._finish_epoch()
                    if on_epoch is not None:
                        on_epoch(self)
                if on_progress is not None:
                    on_progress(self)
                due = config.checkpoint_minutes and time.monotonic() - last_save > 60 * config.checkpoint_minutes
                stop = self._stop  # read once: what is reported must have been saved
                if checkpoint_dir is not None and state.epoch < config.epochs and (stop or due):
                    self.save_checkpoint(checkpoint_dir)
                    last_save = time.monotonic()
                if stop and state.epoch < config.epochs:
                    raise Interrupted(Path(checkpoint_dir) / CHECKPOINT if checkpoint_dir is not None else None)
        if all(loss is None for loss in state.losses):
            raise TrainingError(
                f"sample: no two words were left side by side with sample = {config.sample}; nothing was learnt. Raise "
                "it, or set it to 0 to keep all words"
            )
        return self

    def _train_slice(self, end: int) -> float:
        state, config = self.state, self.config
        start = time.perf_counter()
        try:
            loss, pairs, words = self._train_part(end)
        except IndexError as error:  # the kernel met an id that is not in the vocabulary
            path = self.corpus.path / "ids.bin"
            raise TrainingError(f"corpus: {path} is damaged ({error}); remove it and run again") from error
        seconds = time.perf_counter() - start
        state.train_seconds += seconds
        state.position = end
        state.epoch_loss += loss
        state.epoch_pairs += pairs
        state.words += words
        self.slice_loss = loss / pairs if pairs else float("nan")
        if not np.isfinite(loss):
            raise TrainingError(
                f"lr: the loss became {loss} in epoch {state.epoch + 1}; the vectors have diverged, try a learning "
                f"rate below {config.lr}"
            )
        return seconds

    def _train_part(self, end: int) -> tuple[float, int, int]:
        state, config = self.state, self.config
        if self._cuda is not None:
            return self._cuda.train(state.epoch, state.position, end)
        return ops.train_sgns_(
            self.in_weight,
            self.out_weight,
            self._ids,
            self._alias,
            self._keep,
            window=config.window,
            negative=config.negative,
            seed=config.seed,
            epoch=state.epoch,
            epochs=config.epochs,
            lr=config.lr,
            begin=state.position,
            end=end,
            threads=config.num_threads,
        )

    def _finish_epoch(self) -> None:
        state = self.state
        state.losses.append(state.epoch_loss / state.epoch_pairs if state.epoch_pairs else None)
        state.epoch += 1
        state.position, state.epoch_loss, state.epoch_pairs = 0, 0.0, 0

    def keyed_vectors(self) -> KeyedVectors:
        """The word vectors trained so far, as a copy."""
        vectors = torch.empty(self.in_weight.shape).copy_(self.in_weight)
        return KeyedVectors(self.corpus.vocab.words, vectors.numpy(), counts=self.corpus.vocab.counts)

    def metrics(self) -> dict:
        """Speed and loss of the run; rates are per second of wall time in the kernel (no reports, no checkpoints)."""
        seconds = max(self.state.train_seconds, 1e-9)
        metrics = {
            "raw_words_per_second": self.words_done / seconds,
            "trained_words_per_second": self.state.words / seconds,
            "train_seconds": self.state.train_seconds,
            "loss": list(self.state.losses),
            "vocab_size": len(self.corpus.vocab),
            "raw_words": self.corpus.num_tokens,
            "torch": torch.__version__,
        }
        if self._cuda is None:
            return {**metrics, "device": "cpu", "threads": self.config.num_threads, "cpu_kernels": ops.cpu_kernels()}
        in_flight = self._cuda.sentences_in_flight
        return {**metrics, "device": torch.cuda.get_device_name(self.device), "sentences_in_flight": in_flight}

    # ---- checkpoints --------------------------------------------------------------------------------------------

    def save_checkpoint(self, directory: str | Path) -> Path:
        """Write weights, state and settings to one file, which appears whole or not at all; gives its path."""
        save_file = import_package("safetensors.torch", "safetensors", "to write a checkpoint").save_file
        path = Path(directory) / CHECKPOINT
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {
            "state": json.dumps(asdict(self.state)),
            "config": json.dumps(self.config.to_dict()),
            "corpus": json.dumps(self._fingerprint()),
        }
        weights = {"in_weight": self.in_weight.cpu().contiguous(), "out_weight": self.out_weight.cpu().contiguous()}
        write_files({path: lambda target: save_file(weights, target, metadata)})
        return path

    def load_checkpoint(self, directory: str | Path) -> None:
        """Go on from a checkpoint.

        Raises:
            FileNotFoundError: the directory holds none.
            ValueError: the file is damaged, or was made with other settings (they are named) or another corpus.
        """
        path = Path(directory) / CHECKPOINT
        if not path.exists():
            raise FileNotFoundError(f"resume: no checkpoint to go on from: {path} does not exist")
        safetensors = import_package("safetensors", "safetensors", "to read a checkpoint")
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                state = TrainState(**json.loads(metadata["state"]))
                saved = TrainConfig.from_dict(json.loads(metadata["config"]), str(path))
                fingerprint = json.loads(metadata["corpus"])
                weights = {name: file.get_tensor(name) for name in ("in_weight", "out_weight")}
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(f"resume: {path} is not a complete checkpoint: {error}") from error
        for name in self.config.changed_settings(saved):
            raise ValueError(
                f"resume: setting {name!r} has changed: the checkpoint {path} was made with {getattr(saved, name)!r}, "
                f"now it is {getattr(self.config, name)!r}"
            )
        if fingerprint != self._fingerprint():
            raise ValueError(f"resume: the corpus has changed since the checkpoint {path} was made")
        for name, weight in (("in_weight", self.in_weight), ("out_weight", self.out_weight)):
            if weights[name].shape != weight.shape:
                raise ValueError(
                    f"resume: {path}: {name} has shape {tuple(weights[name].shape)}, not {tuple(weight.shape)}"
                )
            weight.copy_(weights[name])
        self.state = state

    def _fingerprint(self) -> dict:
        vocab = self.corpus.vocab
        return {
            "ids": len(self._ids),
            "num_tokens": int(self.corpus.num_tokens),
            "vocab_size": len(vocab),
            "counts": zlib.crc32(np.ascontiguousarray(vocab.counts)),
            "sample": zlib.crc32(self._ids[:: max(1, len(self._ids) >> 20)].contiguous().numpy()),  # a million ids
        }


class _StopOnInterrupt:
    """Turns the first Ctrl-C into a request to stop at the end of the slice; the second one interrupts at once."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def __enter__(self) -> None:
        self._trainer._stop = False
        self._previous = None
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._request)

    def _request(self, *_: object) -> None:
        self._trainer._stop = True
        signal.signal(signal.SIGINT, self._previous)

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
