"""The training loop on the direct path: slices of the mapped corpus go to an in-place kernel, one after the other.

The kernel's draws and learning rate depend on the place in the corpus alone, so where a slice ends changes nothing:
with one thread a run that was interrupted and resumed gives the same bits as one that was not.
"""

from __future__ import annotations

import signal
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checkpoints import CHECKPOINT, checkpoint_files, read_checkpoint, save_checkpoint
from .config import TrainConfig
from .corpus import Corpus, CorpusError
from .distributed import Ranks, num_ranks
from .keyedvectors import KeyedVectors
from .methods import FastText, Method, TrainingError, make_method
from .reproducible import Workers

_GLOVE_CELLS = 1 << 22  # between two of these looks, where the clock must not decide
_SLICE_SECONDS = 0.2  # between two looks at the clock, the keyboard and the progress bar


class Interrupted(Exception):
    """Training was stopped by Ctrl-C or SIGTERM; the checkpoint it names is complete.

    Attributes:
        checkpoint: the file, if one was asked for.
        signal: SIGINT or SIGTERM.
    """

    def __init__(self, checkpoint: Path | None, signal_number: int = signal.SIGINT) -> None:
        super().__init__(f"interrupted; checkpoint in {checkpoint}" if checkpoint else "interrupted")
        self.checkpoint, self.signal = checkpoint, signal_number


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


def _read_state(saved: dict[str, Any]) -> TrainState:
    """A state as a checkpoint holds it. TypeError or ValueError where a value is not of its kind."""
    state = TrainState(**saved)
    for name in ("epoch", "position", "epoch_pairs", "words"):
        value = getattr(state, name)
        if type(value) is not int or not 0 <= value < 1 << 62:
            raise ValueError(f"{name}: expected a whole number >= 0, got {value!r:.80}")
    if not isinstance(state.losses, list) or not isinstance(state.history, dict):
        raise ValueError("losses, history: expected a list and a mapping")
    for value in (state.epoch_loss, state.train_seconds, *(loss for loss in state.losses if loss is not None)):
        if type(value) not in (int, float) or not np.isfinite(value):
            raise ValueError(f"epoch_loss, train_seconds, losses: expected finite numbers, got {value!r:.80}")
    return state


class Trainer:
    """Trains word vectors on an encoded corpus.

    Args:
        corpus: from :func:`w2v_ext.prepare_corpus`.
        config: the settings; ``corpus``, ``tokenizer`` and the other settings of the text are not used here.
        start: what to begin with in place of random numbers; a :class:`w2v_ext.continued.Start`.

    Attributes:
        method: the model in training, which holds the weights; see :class:`w2v_ext.methods.Method`.
        state: how far the run is.
        slice_loss: mean loss per pair of the slice just trained on; NaN without pairs.

    Example::

        corpus = w2v_ext.prepare_corpus("text.txt")
        trainer = w2v_ext.Trainer(corpus, w2v_ext.TrainConfig(dim=100, epochs=5))
        trainer.fit()
        vectors = trainer.keyed_vectors()
    """

    def __init__(
        self, corpus: Corpus, config: TrainConfig, *, start: Callable[[Method, np.ndarray], Method] | None = None
    ) -> None:
        for name, value, makes in (("corpus", corpus, "vocab"), ("config", config, "model")):
            if not hasattr(value, makes):
                wanted = "a Corpus, as prepare_corpus makes it" if name == "corpus" else "a TrainConfig"
                raise TypeError(f"{name}: expected {wanted}, got {type(value).__name__}")
        vocab = corpus.vocab
        if len(vocab) - vocab.num_specials < 2:
            raise ValueError(f"corpus: expected at least two words in the vocabulary, got {len(vocab)}")
        self.corpus, self.config, self.state = corpus, config, TrainState()
        if config.model == "glove" and num_ranks() > 1:
            raise TrainingError(f"model: glove trains in one process, got {num_ranks()}; use --threads")
        if config.is_batched and num_ranks() > 1:
            raise TrainingError(f"optimizer: batches are trained in one process, got {num_ranks()}; use --threads")
        self.method = make_method(corpus, replace(config, device="cpu") if config.reproducible else config)
        if start is not None:
            self.method = start(self.method, corpus.ids)
        if config.reproducible and config.model == "glove":
            self.method.part = _GLOVE_CELLS  # any number of threads gives the same tables, if not the same clock
        elif config.reproducible:
            self.method = Workers(self.method, config.reproducible, config.num_threads, config.sync_every)
        elif num_ranks() > 1:
            self.method = Ranks(self.method, config.sync_every)
        self.slice_loss = float("nan")
        self._stop = 0  # the signal that asked for it
        self._words_before = 0  # trained on before this process went on

    @property
    def device(self) -> torch.device:
        """Where it trains."""
        return self.method.device

    @property
    def in_weight(self) -> Tensor:
        """The word vectors (V, D) in training; see the method for what else there is."""
        return self.method.weights["in_weight"]

    @property
    def out_weight(self) -> Tensor:
        """The output vectors in training.

        Raises:
            KeyError: the model has none.
        """
        return self.method.weights["out_weight"]

    @property
    def total_words(self) -> int:
        """Words of the whole run, before subsampling."""
        return self.corpus.num_tokens * self.config.epochs

    @property
    def words_done(self) -> int:
        """Words read so far, before subsampling (interpolated within an epoch)."""
        done = self.state.epoch + self.state.position / max(self.method.length, 1)
        return int(self.corpus.num_tokens * done)

    @property
    def where(self) -> str:
        """What it trains on, in words: ``2 threads, avx512`` or ``NVIDIA H200, 528 sentences in flight``."""
        return self.method.where

    @property
    def lr(self) -> float:
        """The learning rate at this point of the run."""
        if self.method.constant_lr:
            return self.config.lr
        done = (self.state.epoch + self.state.position / max(self.method.length, 1)) / self.config.epochs
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
            checkpoint_dir: where to save a checkpoint on Ctrl-C or SIGTERM, and every ``config.checkpoint_minutes`` and
                ``config.checkpoint_words``.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, with the checkpoint saved.
            TrainingError: the loss is no longer finite (the last checkpoint is kept), or there was no pair to train on.
        """
        state, config, self._words_before = self.state, self.config, self.state.words
        most = min(max(self.method.length * config.epochs // self.method.points, 1 << 16), 1 << 28)
        ids_per_slice, last_save = self.method.part or min(1 << 18, most), (time.monotonic(), self.words_done)
        _ = self._fingerprint if checkpoint_dir is not None else None
        with _StopOnInterrupt(self):
            while state.epoch < config.epochs:
                end = state.position + ids_per_slice
                if end + ids_per_slice // 2 > self.method.length:
                    end = self.method.length  # and no crumb after it: its loss would be noise
                seconds = self._train_slice(end)
                if self.method.part is None:
                    ids_per_slice = int(min(max(ids_per_slice * _SLICE_SECONDS / max(seconds, 1e-3), 1 << 14), most))
                if end == self.method.length:
                    self._finish_epoch()
                    if on_epoch is not None:
                        on_epoch(self)
                if on_progress is not None:
                    on_progress(self)
                minutes, words = (time.monotonic() - last_save[0]) / 60, self.words_done - last_save[1]
                due = 0 < config.checkpoint_minutes < minutes or 0 < config.checkpoint_words <= words
                stop, due = self.method.agree(bool(self._stop), due)  # once: what is reported must have been saved
                if checkpoint_dir is not None and state.epoch < config.epochs and (stop or due):
                    self.save_checkpoint(checkpoint_dir)
                    last_save = time.monotonic(), self.words_done
                if stop and state.epoch < config.epochs:
                    checkpoint = Path(checkpoint_dir) / CHECKPOINT if checkpoint_dir is not None else None
                    raise Interrupted(checkpoint, self._stop or signal.SIGINT)
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
            self.corpus.check_unchanged()
            loss, pairs, words = self.method.train(state.epoch, state.position, end)
            self.corpus.check_unchanged()  # before anything of it is saved
        except CorpusError as error:
            raise TrainingError(f"corpus: {error}; run again, with --resume auto from the last checkpoint") from error
        except IndexError as error:  # the kernel met an id that is not in the vocabulary
            path = self.corpus.path / "ids.bin"
            raise TrainingError(f"corpus: {path} is damaged ({error}); remove it and run again") from error
        except torch.OutOfMemoryError as error:
            reason = str(error).partition(". ")[0]
            raise TrainingError(
                f"device: out of memory on {self.device} in epoch {state.epoch + 1} ({reason}); lower dim, or the "
                "vocabulary by max_vocab or min_count, use --weight-dtype bfloat16, or --device cpu. --resume goes on "
                "from the last checkpoint where these stay"
            ) from error
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

    def _finish_epoch(self) -> None:
        state, start = self.state, time.perf_counter()
        self.method.settle()
        state.train_seconds += time.perf_counter() - start
        state.losses.append(state.epoch_loss / state.epoch_pairs if state.epoch_pairs else None)
        state.epoch += 1
        state.position, state.epoch_loss, state.epoch_pairs = 0, 0.0, 0

    def keyed_vectors(self) -> KeyedVectors:
        """The word vectors trained so far, as a copy; of fastText's models, with the n-grams' (`FastTextVectors`)."""
        vocab, vectors = self.corpus.vocab, self.method.word_vectors().numpy()
        method = getattr(self.method, "inner", self.method)
        if isinstance(method, FastText):
            from .fasttext_vectors import FastTextVectors  # not before it is needed: it brings the formats

            subwords, config = method.subword_table(), self.config.to_dict()
            return FastTextVectors(vocab.words, vectors, vocab.counts, subwords=subwords, config=config)
        return KeyedVectors(vocab.words, vectors, counts=vocab.counts)

    def metrics(self) -> dict:
        """Speed and loss of the run; rates are per second of wall time in the kernel (no reports, no checkpoints)."""
        seconds = max(self.state.train_seconds, 1e-9)
        own = self.method.metrics()
        if "exchanged_bytes_per_rank" in own:
            given = num_ranks() * own["exchanged_bytes_per_rank"]
            own["exchanged_bytes_per_trained_word"] = given / max(self.state.words - self._words_before, 1)
        return {
            "raw_words_per_second": self.words_done / seconds,
            "trained_words_per_second": self.state.words / seconds,
            "train_seconds": self.state.train_seconds,
            "loss": list(self.state.losses),
            "vocab_size": len(self.corpus.vocab),
            "raw_words": self.corpus.num_tokens,
            "torch": torch.__version__,
            **own,
        }

    # ---- checkpoints --------------------------------------------------------------------------------------------

    def save_checkpoint(self, directory: str | Path) -> Path:
        """Write weights, state and settings to one file, which appears whole or not at all; gives its path.

        The ``config.checkpoint_keep - 1`` before it are kept. Of several processes one writes.
        """
        self.method.settle()
        if not self.method.writes:
            return Path(directory) / CHECKPOINT
        metadata = {
            "state": asdict(self.state),
            "config": self.config.to_dict(),
            "corpus": self._fingerprint,
        }
        return save_checkpoint(directory, self.method.weights, metadata, self.config.checkpoint_keep)

    def load_checkpoint(self, path: str | Path) -> None:
        """Go on from a checkpoint: a file, or the newest in a directory. Of several processes one reads.

        Raises:
            FileNotFoundError: there is none.
            ValueError: the file is damaged, or was made with other settings (they are named) or another corpus.
        """
        self.state = self.method.follow(self._read_checkpoint(path) if self.method.writes else None)

    def _read_checkpoint(self, path: str | Path) -> TrainState:
        path = Path(path)
        path = path / CHECKPOINT if path.is_dir() else path
        weights, metadata = read_checkpoint(path, list(self.method.weights))
        try:
            state = _read_state(metadata["state"])
            saved = TrainConfig.from_dict(metadata["config"], str(path))
            fingerprint = metadata["corpus"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"resume: {path} is not a complete checkpoint: {error}") from error
        for name in self.config.changed_settings(saved):
            raise ValueError(
                f"resume: setting {name!r} has changed: the checkpoint {path} was made with {getattr(saved, name)!r}, "
                f"now it is {getattr(self.config, name)!r}"
            )
        if fingerprint != self._fingerprint:
            raise ValueError(f"resume: the corpus has changed since the checkpoint {path} was made")
        if state.epoch > self.config.epochs or state.position > self.method.length:
            raise ValueError(
                f"resume: {path} is not a complete checkpoint: position {state.position} of epoch {state.epoch} is "
                "beyond the end"
            )
        for name, weight in self.method.weights.items():
            if weights[name].shape != weight.shape:
                raise ValueError(
                    f"resume: {path}: {name} has shape {tuple(weights[name].shape)}, not {tuple(weight.shape)}"
                )
        for name, weight in self.method.weights.items():
            weight.copy_(weights[name])
        return state

    def resume_if_possible(self, directory: str | Path) -> bool:
        """Go on from the newest checkpoint that is whole; tells whether there was one.

        Raises:
            ValueError: it was made with other settings or another corpus.
        """
        state = None
        for path in checkpoint_files(directory) if self.method.writes else ():
            try:
                state = self._read_checkpoint(path)
                break
            except ValueError as error:
                if "is not a complete checkpoint" not in str(error):
                    raise
                warnings.warn(f"{error}; trying the one before it", RuntimeWarning, stacklevel=2)
        state = self.method.follow(state)
        self.state = state or self.state
        return state is not None

    @cached_property
    def _fingerprint(self) -> dict:
        """What tells this corpus from others; from its beginning, as parts of its file may be cut off later."""
        self.corpus.check_unchanged()
        vocab, ids = self.corpus.vocab, self.corpus.ids
        return {
            "ids": len(ids),
            "num_tokens": int(self.corpus.num_tokens),
            "vocab_size": len(vocab),
            "counts": zlib.crc32(np.ascontiguousarray(vocab.counts)),
            "sample": zlib.crc32(np.ascontiguousarray(ids[:: max(1, len(ids) >> 20)])),  # a million ids
        }


class _StopOnInterrupt:
    """Turns the first Ctrl-C or SIGTERM into a request to stop at the end of the slice; the second one acts at once."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        self._trainer._stop = 0
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._request)

    def _request(self, number: int, _: object) -> None:
        self._trainer._stop = number
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())
