"""``python -m w2v_ext.seq2seq train|translate|evaluate|attention|split``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..command_line import run_subcommand
from ..trainer import Interrupted, TrainingError
from .config import Seq2SeqConfig
from .decoding import SearchOptions
from .evaluate import as_dicts, score_translations
from .example import example_config
from .lines import read_parallel, write_split
from .translate import Translator, stream

PROGRAM = "python -m w2v_ext.seq2seq"
ABOUT = {
    "train": "pairs of sentences -> a model directory (without text: five built-in Chinese-English pairs)",
    "translate": "lines on standard input -> translations on standard output, in the same order",
    "evaluate": "sacreBLEU (cased and lower-cased, with signatures) and chrF of a model on a test set",
    "attention": "a picture of where the translation of one sentence looks",
    "split": "a TSV file -> training, validation and test files, by a fixed hash",
}
DESCRIPTION = (
    "LSTM sequence-to-sequence translation.\n\n"
    + "".join(f"  {name:<10} {about}\n" for name, about in ABOUT.items())
    + f"\n{PROGRAM} COMMAND --help says more."
)


@dataclass(frozen=True)
class TrainCommand(Seq2SeqConfig):
    """The settings and what only the command line has."""

    config: str | None = None
    """YAML or JSON file of settings; a model's config.json is one. Flags win over it."""
    resume: bool = False
    """Go on from the last state in DIR."""


@dataclass(frozen=True)
class SearchCommand:
    """A model and how it searches."""

    model: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """Model directory."""
    beam: int = 5
    """Hypotheses kept for each sentence; 1 is greedy."""
    alpha: float = 1.0
    """Length penalty ((5 + length) / 6) ** alpha; 0 for none."""
    max_len: int | None = None
    """Longest translation in tokens (default: twice the source and 10)."""
    no_repeat: int = 0
    """No sequence of so many tokens twice; 0 allows all."""
    keep_unknown: bool = False
    """Write <UNK> as it is, instead of copying the source word looked at."""
    device: Literal["cpu", "cuda", "auto"] = "auto"
    """Where to translate."""

    def translator(self, nbest: int = 1) -> Translator:
        """Load the model."""
        from .run import choose_device

        options = SearchOptions(self.beam, self.alpha, nbest, self.max_len, self.no_repeat)
        device = str(choose_device(self.device))
        return Translator.load(self.model, options, device=device, copy_unknown=not self.keep_unknown)


@dataclass(frozen=True)
class TranslateCommand(SearchCommand):
    """What ``translate`` takes."""

    nbest: int = 1
    """Translations of each line; above 1 a line is: number of the input line, tab, score, tab, translation."""
    scores: bool = False
    """Put the score and a tab before each translation."""
    batch_lines: int = 256
    """Lines that are translated at a time, if they are there already."""


@dataclass(frozen=True)
class EvaluateCommand(SearchCommand):
    """What ``evaluate`` takes."""

    src: str = ""
    """File of source lines."""
    ref: str = ""
    """File of reference translations."""
    tokenize: str | None = None
    """sacreBLEU's tokenizer (default: zh for Chinese references, else 13a)."""
    out: str | None = None
    """Write the translations to this file."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""


@dataclass(frozen=True)
class AttentionCommand(SearchCommand):
    """What ``attention`` takes."""

    src: str = ""
    """The source sentence."""
    tgt: str | None = None
    """Its translation (default: the model's own)."""
    out: str = "attention.png"
    """Picture to write: .png, .svg or .pdf."""


@dataclass(frozen=True)
class SplitCommand:
    """What ``split`` takes."""

    tsv: str
    """File of tab-separated columns."""
    out: str
    """Directory for train, valid and test, .src and .tgt."""
    columns: tuple[int, int] = (1, 2)
    """Columns of source and target, counted from 1."""
    valid: int = 1000
    """Pairs for validation."""
    test: int = 1000
    """Pairs for testing."""


def parse_train(arguments: Sequence[str]) -> tuple[Seq2SeqConfig, bool]:
    """Read flags and config file of ``train``: the settings, and whether to resume."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("config", "out", "src", "tsv"):
        finder.add_argument(f"--{name}")
    given, _ = finder.parse_known_args(arguments)
    if given.config:
        base = Seq2SeqConfig.from_file(given.config)
    elif given.src is None and given.tsv is None and not {"-h", "--help"} & set(arguments):
        base = example_config(Seq2SeqConfig.out)
    else:
        base = Seq2SeqConfig()
    # The rules between settings hold for flags and file together: the mere defaults need not obey them.
    line = _parse(TrainCommand, "train", arguments, TrainCommand(**base.__dict__, config=given.config))
    settings = {name: value for name, value in line.__dict__.items() if name not in ("config", "resume")}
    return Seq2SeqConfig(**settings), line.resume


def _parse(kind: type, name: str, arguments: Sequence[str], default: object | None = None) -> object:
    return tyro.cli(
        tyro.conf.FlagCreatePairsOff[kind],
        args=arguments,
        prog=f"{PROGRAM} {name}",
        description=ABOUT[name],
        **({} if default is None else {"default": default}),
    )


def _train(arguments: Sequence[str]) -> None:
    config, resume = parse_train(arguments)
    from .run import train

    train(config, resume=resume)


def _stdin_lines() -> Iterator[str]:
    if sys.stdin is None or sys.stdin.closed:
        raise ValueError("standard input: expected lines to translate, but it is closed")
    try:
        yield from _lines_at_once()
    except OSError as error:
        raise OSError(f"standard input: cannot be read: {error.strerror or error}") from error


def _lines_at_once() -> Iterator[str]:
    """Lines as they come: unlike `read_lines`, which waits for a block of a megabyte."""
    for number, line in enumerate(_raw_lines(), 1):
        if isinstance(line, bytes):
            try:
                line = line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                raise ValueError(f"standard input: line {number}: not UTF-8: byte 0x{byte:02x}") from None
        line = line.removesuffix("\n").removesuffix("\r")
        yield line.removeprefix("\ufeff") if number == 1 else line


def _raw_lines() -> Iterator[bytes | str]:
    try:
        descriptor = sys.stdin.fileno()
    except (OSError, AttributeError):  # not a file but something that gives lines
        yield from getattr(sys.stdin, "buffer", sys.stdin)
        return
    # Not through sys.stdin: a thread that waits in its buffer keeps the interpreter from ending.
    held = b""
    while data := os.read(descriptor, 1 << 16):
        *lines, held = (held + data).split(b"\n")
        yield from lines
    if held:
        yield held


def _translate(arguments: Sequence[str]) -> None:
    line: TranslateCommand = _parse(TranslateCommand, "translate", arguments)
    translator = line.translator(line.nbest)
    try:
        for number, found in enumerate(stream(translator, _stdin_lines(), line.batch_lines), 1):
            if line.nbest > 1:
                for text, score in found.nbest:
                    print(f"{number}\t{score:.4f}\t{text}")
            else:
                print(f"{found.score:.4f}\t{found.text}" if line.scores else found.text)
            sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on: that is no error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _evaluate(arguments: Sequence[str]) -> None:
    line: EvaluateCommand = _parse(EvaluateCommand, "evaluate", arguments)
    for name in ("src", "ref"):
        if not getattr(line, name):
            raise ValueError(f"{name}: expected a file, got none")
    try:
        src, ref = read_parallel(line.src, line.ref)
    except ValueError as error:
        raise ValueError(str(error).replace("src and tgt:", "src and ref:")) from error
    translations = [found.text for found in line.translator().translate(src)]
    if line.out is not None:
        from ..files import write_files

        data = "".join(f"{text}\n" for text in translations).encode()
        write_files({Path(line.out): lambda target: target.write_bytes(data)})
    scores = score_translations(translations, ref, tokenize=line.tokenize)
    if line.as_json:
        settings = {"beam": line.beam, "alpha": line.alpha, "lines": len(src)}
        print(json.dumps({**settings, "scores": as_dicts(scores)}, indent=1))
        return
    for score in scores:
        print(f"{score.name:<8}  {score.score:6.2f}  {score.details + '  ' if score.details else ''}{score.signature}")


def _attention(arguments: Sequence[str]) -> None:
    line: AttentionCommand = _parse(AttentionCommand, "attention", arguments)
    from .plots import attention_figure, save_figure

    if not line.src.strip():
        raise ValueError("src: expected a sentence, got none")
    source, target, weights = line.translator().align(line.src, line.tgt)
    save_figure(attention_figure(source, target, weights), line.out)
    for token, row in zip(target, weights, strict=True):
        print(f"{token}\t{source[row.argmax()]}\t{row.max():.2f}")
    print(f"saved to {line.out}")


def _split(arguments: Sequence[str]) -> None:
    line: SplitCommand = _parse(SplitCommand, "split", arguments)
    counts = write_split(line.tsv, line.out, line.valid, line.test, line.columns)
    empty = f"; left out: {counts['empty']:,} lines without text on a side" if counts["empty"] else ""
    parts = ", ".join(f"{counts[name]:,} {name}" for name in ("train", "valid", "test"))
    print(f"{parts} pairs in {line.out}{empty}")


COMMANDS = {
    "train": _train,
    "translate": _translate,
    "evaluate": _evaluate,
    "attention": _attention,
    "split": _split,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit status: 0, 2 for bad input, 130 when interrupted, 143 after SIGTERM."""
    try:
        return run_subcommand(COMMANDS, DESCRIPTION, arguments)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"\n{stop}; go on with the same command and --resume", file=sys.stderr)
        return 128 + stop.signal
