"""What is written down while a run goes on: its history, and TensorBoard's curves.

A monitor has three methods, which the training loop calls: `on_progress(trainer)` a few times a second, `on_epoch(
trainer)` after each epoch, `close(trainer)` once when training ends, in whatever way. Any object with these will do:

    trainer.fit(on_progress=monitor.on_progress, on_epoch=monitor.on_epoch)
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .files import FormatError, write_files
from .keyedvectors import KeyedVectors

if TYPE_CHECKING:
    from .trainer import Trainer

HISTORY = "history.json"
_MOST_STEPS = 1024  # points of the loss curve that are kept: beyond that, each two become one
_NEIGHBORS = 10

Pair = tuple[str, str]


class Monitor(Protocol):
    """What the training loop calls."""

    def on_progress(self, trainer: Trainer) -> None:
        """A slice of the corpus was trained on; `trainer.slice_loss` is its mean loss per pair."""

    def on_epoch(self, trainer: Trainer) -> None:
        """An epoch is over; called before the `on_progress` of its last slice."""

    def close(self, trainer: Trainer) -> None:
        """Training is over, or was stopped; `trainer.state` says how far it came."""


def pair_similarities(trainer: Trainer, pairs: Sequence[Pair]) -> list[float | None]:
    """Return the cosine of each pair of words as the vectors are now; None where a word is not in the vocabulary."""
    ids = trainer.corpus.vocab.word_to_id
    found = []
    for first, second in pairs:
        if first not in ids or second not in ids:
            found.append(None)
            continue
        a, b = (trainer.in_weight[ids[word]].double() for word in (first, second))
        length = float(a.norm() * b.norm())
        found.append(float(a @ b) / length if length > 0 else 0.0)
    return found


def nearest(vectors: KeyedVectors, words: Sequence[str], topn: int = _NEIGHBORS) -> dict[str, list[tuple[str, float]]]:
    """Return the nearest neighbours of those of the words that are in the vocabulary."""
    return {word: vectors.most_similar(word, topn=topn) for word in words if word in vectors}


class _Pace:
    """Words per second since it was last asked."""

    def __init__(self, trainer: Trainer) -> None:
        self._words, self._seconds = trainer.words_done, trainer.state.train_seconds

    def __call__(self, trainer: Trainer) -> float:
        words, seconds = trainer.words_done, trainer.state.train_seconds
        rate = (words - self._words) / max(seconds - self._seconds, 1e-9)
        self._words, self._seconds = words, seconds
        return rate


class HistoryMonitor:
    """Records a run in `trainer.state.history`, which checkpoints keep and the model directory gets as `history.json`.

    `epochs` is a list with one object per epoch: epoch, words (read so far), loss (mean per pair), lr, train_seconds,
    neighbors (probe word -> [[word, cosine], ...], the ten nearest) and pairs ("a:b" -> cosine). `steps` is the course
    of the run, at most 1,024 objects: words (read up to its end), loss, lr and words_per_second.

    Args:
        trainer: whose run is recorded.
        probes: words whose neighbours are recorded after each epoch.
        pairs: pairs of words whose similarity is.
    """

    def __init__(self, trainer: Trainer, probes: Sequence[str] = (), pairs: Sequence[Pair] = ()) -> None:
        self._probes, self._pairs, self._pace = list(probes), list(pairs), _Pace(trainer)
        self._history = trainer.state.history
        for name in ("epochs", "steps"):
            self._history.setdefault(name, [])

    def on_progress(self, trainer: Trainer) -> None:
        """Add a step."""
        steps = self._history["steps"]
        loss = trainer.slice_loss if math.isfinite(trainer.slice_loss) else None
        rate = self._pace(trainer)
        steps.append({"words": trainer.words_done, "loss": loss, "lr": trainer.lr, "words_per_second": rate})
        if len(steps) >= _MOST_STEPS:
            steps[:] = _halved(steps)

    def on_epoch(self, trainer: Trainer) -> None:
        """Add an epoch."""
        state = trainer.state
        near = nearest(trainer.keyed_vectors(), self._probes) if self._probes else {}
        similar = zip(self._pairs, pair_similarities(trainer, self._pairs), strict=True)
        self._history["epochs"].append(
            {
                "epoch": state.epoch,
                "words": trainer.words_done,
                "loss": state.losses[-1],
                "lr": trainer.lr,
                "train_seconds": state.train_seconds,
                "neighbors": {word: [list(pair) for pair in found] for word, found in near.items()},
                "pairs": {f"{a}:{b}": cosine for (a, b), cosine in similar if cosine is not None},
            }
        )

    def close(self, trainer: Trainer) -> None:
        """Nothing is left to do: the history is in `trainer.state`."""


def _halved(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make one step of each two; loss and pace weighted by words."""
    merged, start = [], 0
    for first, second in zip(steps[::2], steps[1::2], strict=False):
        weights = (first["words"] - start, second["words"] - first["words"])
        start = second["words"]
        one = dict(second)
        for name in ("loss", "words_per_second"):
            known = [
                (w, s[name]) for w, s in zip(weights, (first, second), strict=True) if s[name] is not None and w > 0
            ]
            total = sum(w for w, _ in known)
            one[name] = sum(w * value for w, value in known) / total if total else second[name]
        merged.append(one)
    return merged + steps[len(merged) * 2 :]


def load_history(directory: str | os.PathLike[str]) -> dict[str, list[dict[str, Any]]]:
    """Read the `history.json` of a model directory: see `HistoryMonitor`.

    Raises:
        FileNotFoundError: the directory has none; a model of an earlier version, or vectors from elsewhere.
        FormatError: the file is damaged.
    """
    path = Path(directory) / HISTORY
    try:
        history = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{path}: no such file; it is written by python -m w2v_ext.train, and vectors from elsewhere have none"
        ) from error
    except ValueError as error:
        raise FormatError(f"{path}: not valid JSON: {error}") from error
    parts = [history.get(name) for name in ("epochs", "steps")] if isinstance(history, dict) else [None]
    if not all(isinstance(part, list) and all(isinstance(item, dict) for item in part) for part in parts):
        raise FormatError(f"{path}: expected an object with the lists epochs and steps")
    return history


class TensorBoardMonitor:
    """Writes a run to a TensorBoard directory: scalars, neighbours as text, and the vectors for the projector.

    Scalars over words read: Loss/Batch (mean per pair of one slice of the corpus, about 0.2 s of work), LearningRate,
    Speed/WordsPerSecond, Similarity/A:B per probe pair. Over epochs: Loss/Epoch and the text Neighbors/WORD. At the end
    the projector gets the vectors of the most frequent words, with their counts.

    Writing that fails (a full disk) ends the records with one line to `report`, not the training.

    Args:
        trainer: whose run is written.
        directory: of this run. What an earlier run left there is hidden, from the point on where this one begins.
        probes: words whose neighbours are shown.
        pairs: pairs of words whose similarity is drawn.
        projector_words: how many words the projector gets (a browser holds some ten thousand); 0 for none.
        report: takes a line for the user.

    Raises:
        ImportError: tensorboard is missing; it names the extra.
        OSError: the directory cannot be written.
    """

    def __init__(
        self,
        trainer: Trainer,
        directory: str | os.PathLike[str],
        probes: Sequence[str] = (),
        pairs: Sequence[Pair] = (),
        projector_words: int = 10_000,
        report: Callable[[str], None] = print,
    ) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("tensorboard: needs the package: pip install 'w2v_ext[tensorboard]'") from error
        self._probes, self._pairs, self._pace = list(probes), list(pairs), _Pace(trainer)
        self._projector_words, self._report = projector_words, report
        try:
            done = trainer.words_done  # what was written up to here stays, what came after is hidden
            self._writer: Any = SummaryWriter(os.fspath(directory), purge_step=done + 1 if done else 0)
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"tensorboard: cannot write to {os.fspath(directory)}: {reason}") from error

    def _write(self, write: Callable[[Any], None]) -> None:
        try:
            if self._writer is not None:
                write(self._writer)
        except OSError as error:
            self._writer = None
            self._report(f"note: tensorboard: cannot write, and writes no more: {error}")

    def on_progress(self, trainer: Trainer) -> None:
        """Write the scalars of a slice."""
        words, rate = trainer.words_done, self._pace(trainer)

        def write(writer: Any) -> None:
            if math.isfinite(trainer.slice_loss):
                writer.add_scalar("Loss/Batch", trainer.slice_loss, words)
            writer.add_scalar("LearningRate", trainer.lr, words)
            writer.add_scalar("Speed/WordsPerSecond", rate, words)
            for (first, second), cosine in zip(self._pairs, pair_similarities(trainer, self._pairs), strict=True):
                if cosine is not None:
                    writer.add_scalar(f"Similarity/{first}:{second}", cosine, words)

        self._write(write)

    def on_epoch(self, trainer: Trainer) -> None:
        """Write the loss of the epoch, and the neighbours."""
        state = trainer.state
        near = nearest(trainer.keyed_vectors(), self._probes) if self._probes else {}

        def write(writer: Any) -> None:
            if state.losses[-1] is not None:
                writer.add_scalar("Loss/Epoch", state.losses[-1], state.epoch)
            for word, found in near.items():
                rows = [f"| {_cell(other)} | {cosine:.3f} |" for other, cosine in found]
                table = "\n".join(["| word | cosine |", "|---|---|", *rows])
                writer.add_text(f"Neighbors/{word}", table, state.epoch)
            writer.flush()

        self._write(write)

    def close(self, trainer: Trainer) -> None:
        """End the files; after the last epoch, write the projector's first."""
        if self._projector_words and trainer.state.epoch == trainer.config.epochs:
            self._write(lambda writer: write_projector(writer.log_dir, trainer.keyed_vectors(), self._projector_words))
        self._write(lambda writer: writer.close())


def write_projector(directory: str | os.PathLike[str], vectors: KeyedVectors, words: int = 10_000) -> None:
    """Write the files that TensorBoard's projector shows: `projector_config.pbtxt`, and what it names.

    (`SummaryWriter.add_embedding` adds the vectors once more on every run in the same directory; this replaces them.)

    Args:
        directory: of the run.
        vectors: the first `words` of them are written.
        words: how many.

    Raises:
        OSError: a file cannot be written.
    """
    root = Path(directory)
    rows = vectors.vectors[:words]
    counts = ["" for _ in rows] if vectors.counts is None else vectors.counts[:words].tolist()
    header = "word\tcount\n"
    metadata = header + "".join(f"{w}\t{n}\n" for w, n in zip(vectors.index_to_key[:words], counts, strict=True))
    tensors = "".join("\t".join(f"{value:.6g}" for value in row) + "\n" for row in rows.tolist())
    config = (
        'embeddings {\n  tensor_name: "vectors"\n  tensor_path: "projector/vectors.tsv"\n'
        '  metadata_path: "projector/metadata.tsv"\n}\n'
    )
    (root / "projector").mkdir(parents=True, exist_ok=True)
    contents = {"projector/vectors.tsv": tensors, "projector/metadata.tsv": metadata, "projector_config.pbtxt": config}
    write_files(
        {root / name: lambda target, text=text: target.write_bytes(text.encode()) for name, text in contents.items()}
    )


def _cell(text: str) -> str:
    """A word inside a Markdown table."""
    return "".join(f"\\{c}" if c in r"\|*_`<>[]#" else c for c in text)
