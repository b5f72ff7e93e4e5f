"""Lines in, translations out: the whole way with a trained model."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .data import make_batches, pad_sequences
from .decoding import Hypothesis, SearchOptions, search
from .encoder import EOS_ID, UNK_ID
from .files import TextFiles, load_model
from .model import Seq2SeqModel

_BATCH_TOKENS = 4000


@dataclass(frozen=True)
class Translation:
    """A translated line.

    Attributes:
        text: the best translation.
        score: its log probability after the length penalty; 0 for an empty line.
        nbest: texts and scores of the best, best first.
    """

    text: str
    score: float
    nbest: list[tuple[str, float]]


class Translator:
    """Translates lines with a trained model.

    Args:
        model: is put in evaluation mode while it translates.
        files: its tokenizers and vocabularies.
        options: of the search.
        copy_unknown: put the source token most looked at in place of <UNK>; needs attention, else <UNK> is left out.
        batch_tokens: tokens translated at a time, times the beam.

    Example::

        translator = Translator.load("translation")
        print(translator.translate(["Zwei Hunde laufen durch den Schnee."])[0].text)
    """

    def __init__(
        self,
        model: Seq2SeqModel,
        files: TextFiles,
        options: SearchOptions | None = None,
        *,
        copy_unknown: bool = True,
        batch_tokens: int = _BATCH_TOKENS,
    ) -> None:
        self.model, self.files = model, files
        self.options, self.copy_unknown = options or SearchOptions(), copy_unknown
        self.batch_tokens = batch_tokens

    @classmethod
    def load(
        cls,
        directory: str | Path,
        options: SearchOptions | None = None,
        *,
        device: str = "cpu",
        copy_unknown: bool = True,
    ) -> Translator:
        """Read a model directory."""
        model, _, files = load_model(directory, device)
        return cls(model, files, options, copy_unknown=copy_unknown)

    def translate(self, lines: Sequence[str]) -> list[Translation]:
        """Translate lines, batched by length; in the order they came. An empty line gives an empty one."""
        tokens = self.files.src_tokenizer.encode_all(lines)
        ids = [np.append(self.files.src_vocab.encode(line), EOS_ID) for line in tokens]
        full = np.array([i for i, line in enumerate(tokens) if line], np.int64)
        out = [Translation("", 0.0, [("", 0.0)] * self.options.nbest) for _ in lines]
        if not len(full):
            return out
        was_training = self.model.training
        self.model.eval()
        try:
            lengths = np.array([len(ids[i]) for i in full])
            device = next(self.model.parameters()).device
            budget = max(1, self.batch_tokens * 5 // max(self.options.beam, 5))
            for rows in make_batches(lengths, lengths, budget):
                src, sizes = pad_sequences([ids[i] for i in full[rows]])
                for i, found in zip(full[rows], search(self.model, src.to(device), sizes, self.options), strict=True):
                    nbest = [(self._text(h, tokens[i]), h.score) for h in found]
                    out[i] = Translation(*nbest[0], nbest)
        finally:
            self.model.train(was_training)
        return out

    def _text(self, hypothesis: Hypothesis, source: list[str]) -> str:
        words = self.files.tgt_vocab.decode(hypothesis.ids)
        result = []
        for place, word in enumerate(words):
            if hypothesis.ids[place] != UNK_ID:
                result.append(word)
            elif self.copy_unknown and hypothesis.attended is not None:
                at = hypothesis.attended[place]
                result += source[at : at + 1]  # nothing where it looked at <EOS>
            elif not self.copy_unknown:
                result.append(word)
        return self.files.tgt_tokenizer.decode(result)

    @torch.no_grad()
    def align(self, source: str, target: str | None = None) -> tuple[list[str], list[str], np.ndarray]:
        """Where the model looks for each word of a translation.

        Args:
            source: a line.
            target: its translation; by default the model's own.

        Returns:
            Source tokens (with <EOS>) S, target tokens (with <EOS>) T, and the weights (T, S).

        Raises:
            ValueError: a model without attention, or an empty line.
        """
        if self.model.decoder.attention is None:
            raise ValueError("model: expected one with attention, got one without")
        tokens = self.files.src_tokenizer.encode(source)
        if not tokens:
            raise ValueError("source: expected words, got an empty line")
        if target is None:
            target = self.translate([source])[0].text
        words = self.files.tgt_tokenizer.encode(target)
        device = next(self.model.parameters()).device
        src = torch.from_numpy(np.append(self.files.src_vocab.encode(tokens), EOS_ID)).long()[None].to(device)
        tgt = torch.from_numpy(np.concatenate([[1], self.files.tgt_vocab.encode(words)])).long()[None].to(device)
        was_training = self.model.training
        self.model.eval()
        try:
            out = self.model.features(src, torch.tensor([src.shape[1]]), tgt)
        finally:
            self.model.train(was_training)
        return [*tokens, "<EOS>"], [*words, "<EOS>"], out.attention[0].float().cpu().numpy()


def stream(translator: Translator, lines: Iterable[str], batch_lines: int = 256) -> Iterator[Translation]:
    """Translate lines as they come, in order.

    Lines that are there already are translated together, up to `batch_lines`; the last one is never kept waiting for
    more, so that a program may write a line and read its translation. Reading goes on in a thread meanwhile.

    Raises:
        ValueError: `batch_lines` below 1; and what reading the lines raises.
    """
    if batch_lines < 1:
        raise ValueError(f"batch_lines: expected an integer >= 1, got {batch_lines}")
    waiting: queue.Queue = queue.Queue(4 * batch_lines)
    end = object()
    gone = threading.Event()

    def read() -> None:
        error: BaseException | None = None
        try:
            for line in lines:
                while not gone.is_set():
                    try:
                        waiting.put(line, timeout=0.2)
                        break
                    except queue.Full:
                        continue
                if gone.is_set():
                    return
        except BaseException as caught:  # handed to the reader's caller
            error = caught
        while not gone.is_set():
            try:
                waiting.put((end, error), timeout=0.2)
                return
            except queue.Full:
                continue

    threading.Thread(target=read, daemon=True).start()
    try:
        finished = False
        while not finished:
            some, error = [], None
            item = waiting.get()
            while True:
                if isinstance(item, tuple):
                    finished, error = True, item[1]
                    break
                some.append(item)
                if len(some) == batch_lines:
                    break
                try:
                    item = waiting.get_nowait()
                except queue.Empty:
                    break
            yield from translator.translate(some)
            if error is not None:
                raise error
    finally:
        gone.set()
