"""``python -m w2v_ext.classify train|test|predict``."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Annotated, Literal

import tyro
from tqdm import tqdm

from .. import _text
from ..command_line import progress_bar, run_subcommand
from ..json_values import json_text
from ..reporting import Report
from ..sources import SourceFile, describe_error, read_chunks
from ..train import make_writable
from ..trainer import TrainingError
from .classifier import TextClassifier
from .config import ClassifierConfig
from .lines import encode_lines

PROGRAM = "python -m w2v_ext.classify"
ABOUT = {
    "train": "lines of labels and text -> a classifier's directory",
    "test": "precision and recall on labelled lines, all in all and label by label",
    "predict": "lines on standard input -> their most probable labels on standard output",
}
DESCRIPTION = (
    "Text classification as fastText does it. A line of input is: __label__x text; several labels are possible.\n\n"
    + "".join(f"  {name:<8} {about}\n" for name, about in ABOUT.items())
    + f"\n{PROGRAM} COMMAND --help says more."
)
_READ = 1 << 20  # bytes, at most, that are answered at a time


@dataclass(frozen=True)
class TrainCommand(ClassifierConfig):
    """The settings and what only the command line has."""

    input: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE")] = ()
    """Lines of labels and text: files (plain, .gz, .xz, .zst), directories, or - for standard input."""
    out: str = "classifier"
    """Directory of the classifier."""


@dataclass(frozen=True)
class ModelCommand:
    """A model and what is asked of it."""

    model: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """Directory of a classifier, or a supervised .bin of fastText."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 1
    """Labels predicted for each line."""
    threshold: float = 0.0
    """Labels below this probability are left out."""
    errors: Literal["strict", "replace"] | None = None
    """On bytes that are not UTF-8: stop, or replace and go on (default: as in the model's training)."""
    threads: int = 0
    """Threads; 0 takes all cores."""

    def load(self) -> TextClassifier:
        """Read the model, once the rest is known to hold."""
        if self.k < 1:
            raise ValueError(f"k: expected an integer >= 1, got {self.k}")
        model = TextClassifier.load(self.model, threads=self.threads)
        if self.errors is not None:
            model.config = replace(model.config, errors=self.errors)
        return model


@dataclass(frozen=True)
class TestCommand(ModelCommand):
    """What ``test`` takes."""

    input: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE")] = ()
    """Labelled lines, as for train."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""


@dataclass(frozen=True)
class PredictCommand(ModelCommand):
    """What ``predict`` takes."""


def _parse(kind: type, name: str, arguments: Sequence[str]) -> object:
    return tyro.cli(
        tyro.conf.FlagCreatePairsOff[kind], args=arguments, prog=f"{PROGRAM} {name}", description=ABOUT[name]
    )


def _need_input(files: tuple[str, ...]) -> None:
    if not files:
        raise ValueError("input: expected at least one file after --input, got none")


def _train(arguments: Sequence[str]) -> None:
    line: TrainCommand = _parse(TrainCommand, "train", arguments)
    _need_input(line.input)
    settings = {name: value for name, value in vars(line).items() if name not in ("input", "out")}
    model, out = TextClassifier(ClassifierConfig(**settings)), Path(line.out)
    made, report = make_writable(out), Report(sys.stdout)
    try:
        _fit(model, line.input, report)
        model.save(out)
    except BaseException:
        if made and not any(out.iterdir()):
            out.rmdir()  # nothing came of it
        raise
    speed = model.metrics()
    on_cpu = speed["device"] == "cpu"
    where = f"{speed['threads']} threads, {speed['cpu_kernels']}" if on_cpu else speed["device"]
    report.line(
        f"trained {model.state.words:,} words in {speed['train_seconds']:.2f} s "
        f"({speed['words_per_second'] / 1e6:.2f} M words/s, {where}); saved to {out}"
    )


def _fit(model: TextClassifier, files: tuple[str, ...], report: Report) -> None:
    epochs, started = model.config.epochs, time.perf_counter()
    with progress_bar("reading", "B") as reading, tqdm(unit=" lines", unit_scale=True, disable=None) as bar:

        def on_progress(m: TextClassifier) -> None:
            if bar.total is None:
                bar.total = m.state.total
                words, labels, rows = len(m.words), len(m.labels), len(m.in_weight) - len(m.words)
                report.line(
                    f"input: {m.state.total // epochs:,} lines, {words:,} words, {labels:,} labels, {rows:,} buckets "
                    f"in use, ready in {time.perf_counter() - started - m.state.train_seconds:.2f} s"
                )
            bar.set_postfix_str(f"loss {m.state.loss:.4f}, lr {m.state.lr:.3g}", refresh=False)
            bar.update(m.state.examples - bar.n)

        def on_epoch(m: TextClassifier) -> None:
            rate = m.state.words / max(m.state.train_seconds, 1e-9) / 1e6
            report.line(f"epoch {m.state.epoch}/{epochs}  loss {m.state.losses[-1]:.4f}  {rate:.2f} M words/s")

        model.fit(files, on_progress=on_progress, on_epoch=on_epoch, reading=reading)


def _test(arguments: Sequence[str]) -> None:
    line: TestCommand = _parse(TestCommand, "test", arguments)
    _need_input(line.input)
    model = line.load()
    with progress_bar("reading", "B") as reading:
        report = model.test(line.input, line.k, line.threshold, reading=reading)
    print(json_text(report.to_dict()) if line.as_json else report)


def _predict(arguments: Sequence[str]) -> None:
    line: PredictCommand = _parse(PredictCommand, "predict", arguments)
    model = line.load()
    for text in _predicted(model, line.k, line.threshold):
        sys.stdout.write(text)
        sys.stdout.flush()


def _predicted(model: TextClassifier, k: int, threshold: float) -> Iterator[str]:
    """The answers to standard input, some lines at a time, as they come."""
    offset = 0
    for block in _line_blocks():
        try:
            yield _answers(model, block, k, threshold)
        except _text.TextError as error:
            kind, name, place, byte = error.args
            before = block[: block.rfind(b"\n", 0, place) + 1]
            if before:
                yield _answers(model, before, k, threshold)
            raise describe_error(_text.TextError(kind, name, place + offset, byte)) from error
        offset += len(block)


def _answers(model: TextClassifier, block: bytes, k: int, threshold: float) -> str:
    lines = encode_lines([block], label=model.config.label, errors=model.config.errors, name="-")
    answers = model.predict_lines(lines, k, threshold)
    return "".join(" ".join(f"{label} {probability:.6g}" for label, probability in answer) + "\n" for answer in answers)


class _Available(io.RawIOBase):
    """Standard input, of which a read gives what is there already instead of waiting for all that it asks for."""

    def __init__(self, file: IO[bytes]):
        self._read = getattr(file, "read1", file.read)

    def readable(self) -> bool:
        return True

    def read(self, n: int = _READ) -> bytes:
        return self._read(n if n > 0 else _READ)


def _line_blocks() -> Iterator[bytes]:
    """Whole lines of standard input, plain or compressed."""
    if sys.stdin is None or sys.stdin.closed:
        raise ValueError("standard input: expected lines of text, but it is closed")
    raw = _Available(getattr(sys.stdin, "buffer", sys.stdin))
    source, held = SourceFile("-", "-", "-", None, None), b""
    for chunk in read_chunks(source, raw, raw.read(), lambda _: None):
        cut = bytes(chunk).rfind(b"\n") + 1
        if cut:
            yield held + bytes(chunk[:cut])
            held = b""
        held += bytes(chunk[cut:])
    if held:
        yield held


COMMANDS = {"train": _train, "test": _test, "predict": _predict}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit status: 0, 2 for bad input, 130 when interrupted."""
    try:
        return run_subcommand(COMMANDS, DESCRIPTION, arguments)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
