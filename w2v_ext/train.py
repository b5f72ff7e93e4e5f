"""``python -m w2v_ext.train``: from text files to a directory of word vectors."""

from __future__ import annotations

import argparse
import os
import sys
import time
import typing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TextIO

from .checkpoints import CHECKPOINT, remove_checkpoints
from .config import TrainConfig, read_settings
from .continued import prepare_start, settings_of
from .corpus import Corpus, CorpusOptions, prepare_corpus
from .distributed import first_of_each_machine, process_group, rank
from .download import DownloadError, text8_path
from .files import make_new
from .keyedvectors import KeyedVectors
from .model_files import save_model
from .monitor import HistoryMonitor, Monitor, TensorBoardMonitor
from .packages import import_package
from .reporting import Report
from .synthetic import BUILTIN_PROBE_PAIRS, BUILTIN_PROBES, builtin_corpus_path
from .trainer import Interrupted, Trainer, TrainingError

DESCRIPTION = """Train word vectors: skip-gram, CBOW, fastText's models of n-grams or GloVe, with negative sampling,
hierarchical or full softmax, on all cores or on a GPU.

DIR receives model.safetensors, vocab.tsv, config.json, metrics.json and history.json. Without --corpus a small corpus
with planted meaning is generated, learnt in seconds, and its nearest neighbours are shown. Settings can also stand in a
YAML or JSON file (--config FILE); flags win over it, and it over what --continue-from was trained with. `torchrun
--nproc-per-node N -m w2v_ext.train ...` trains with N processes."""


@dataclass(frozen=True)
class CommandLine(TrainConfig):
    """The settings and what only the command line has."""

    config: str | None = None
    """YAML or JSON file of settings; a model's config.json is one."""
    resume: Literal["no", "yes", "auto"] = "no"
    """--resume goes on from the checkpoint in DIR; --resume auto does so if there is one, and starts anew if not."""


def parse_arguments(arguments: Sequence[str] | None = None) -> tuple[TrainConfig, str]:
    """Read flags and config file: the settings, and whether to resume: no, yes or auto.

    Raises:
        ValueError: a setting that does not hold, or a config file that cannot be read as one.
        SystemExit: on --help (0) and on flags that cannot be parsed (2).
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    finder.add_argument("--model")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for i, flag in enumerate(arguments):
        if flag == "--resume" and arguments[i + 1 : i + 2] not in (["auto"], ["yes"], ["no"]):
            arguments[i] = "--resume=yes"
    finder.add_argument("--continue-from", "--continue_from")
    given, _ = finder.parse_known_args(arguments)
    models = typing.get_args(typing.get_type_hints(TrainConfig)["model"])
    model = {"model": given.model} if given.model in models else {}  # another one is an error of the parser below
    settings = (read_settings(given.config) if given.config else {}) | model
    old = given.continue_from or settings.get("continue_from")
    below = settings_of(old).to_dict() if isinstance(old, str) and old else {}
    base = TrainConfig.from_dict({**below, **settings}, f"config {given.config}")
    tyro = import_package("tyro", "tyro", "for the command line (from Python, w2v_ext.Trainer does without)")
    line = tyro.cli(
        tyro.conf.FlagCreatePairsOff[CommandLine],
        args=arguments,
        prog="python -m w2v_ext.train",
        description=DESCRIPTION,
        default=CommandLine(**base.__dict__, config=given.config),
    )
    if "--corpus" in arguments and not line.corpus:
        raise ValueError("corpus: expected at least one path after --corpus, got none")
    settings = {name: value for name, value in line.__dict__.items() if name not in ("config", "resume")}
    return TrainConfig(**settings), line.resume


def _tqdm() -> Any:
    return import_package("tqdm", "tqdm", "for the progress bars").tqdm


def open_corpus(config: TrainConfig, progress: bool = True) -> Corpus:
    """Find, download or generate the text, and encode it (or map the encoded copy of an earlier run)."""
    for name in ("continue_from", "intersect"):
        if getattr(config, name) is not None and not config.corpus:
            raise ValueError(f"corpus: expected text beside {name}, got none")
    cache = config.cache_dir
    sources: list[str | Path] = []
    for source in config.corpus or ("builtin",):
        if source == "builtin" and not config.corpus:
            sources.append(builtin_corpus_path(cache))
        elif source == "text8" and not Path(source).exists():
            sources.append(text8_path(cache, progress=progress))
        else:
            sources.append(source)
    options = CorpusOptions(
        tokenizer=config.tokenizer,
        lowercase=config.lowercase,
        min_count=config.min_count,
        max_vocab=config.max_vocab,
        errors=config.errors,
    )
    with _tqdm()(desc="reading", unit="B", unit_scale=True, disable=None if progress else True, leave=False) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            return prepare_corpus(sources, options, cache_dir=cache, threads=config.num_threads, progress=show)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"corpus: no such file or directory: {error.filename}") from error


def run(config: TrainConfig, *, resume: str = "no", out: TextIO | None = None) -> KeyedVectors:
    """Train as the command line does: prepare the corpus, train, show probes, save to ``config.out``.

    Args:
        config: the settings.
        resume: ``no``; ``yes``, go on from the checkpoint in ``config.out``; ``auto``, if there is one that is whole.
        out: where the report is written (default: standard output). A report that cannot be written ends the reports,
            not the training.

    Returns:
        The word vectors.
    """
    return _run(config, resume, out).keyed_vectors()


def _run(config: TrainConfig, resume: str, out: TextIO | None = None) -> Trainer:
    directory = Path(config.out)
    made = rank() == 0 and make_writable(directory)
    try:
        with process_group(config.device):
            return _train_and_save(config, directory, resume, Report((out or sys.stdout) if rank() == 0 else None))
    except BaseException:
        if made and not any(directory.iterdir()):
            directory.rmdir()  # nothing came of it
        raise


def _train_and_save(config: TrainConfig, directory: Path, resume: str, report: Report) -> Trainer:
    started = time.perf_counter()
    with first_of_each_machine():
        every_word = replace(config, min_count=1, max_vocab=None) if config.continue_from else config
        corpus = open_corpus(every_word, progress=rank() == 0)
    corpus, start = prepare_start(corpus, config)
    prepare_seconds = time.perf_counter() - started
    builtin = not config.corpus
    probes = config.probe_words or (list(BUILTIN_PROBES) if builtin else [])
    pairs = config.probe_word_pairs or (list(BUILTIN_PROBE_PAIRS) if builtin else [])
    trainer = Trainer(corpus, config, start=start)
    report.line(
        f"corpus: {corpus.num_tokens:,} words, {len(corpus.vocab):,} distinct"
        f"{' (generated; give --corpus FILE for your own)' if builtin else ''}, ready in {prepare_seconds:.2f} s"
    )
    if start is not None:
        report.line(start.line(config))
    if trainer.method.prepared:
        report.line(trainer.method.prepared)
    if resume == "yes" or (resume == "auto" and trainer.resume_if_possible(directory)):
        if resume == "yes":
            trainer.load_checkpoint(directory)
        report.line(f"resumed at epoch {trainer.state.epoch + 1}, {trainer.words_done:,} words")
    elif resume == "no" and (directory / CHECKPOINT).exists():
        report.line(f"note: {directory / CHECKPOINT} is of an unfinished run; starting anew (--resume goes on)")
    monitors: list[Monitor] = [HistoryMonitor(trainer, probes, pairs)]
    if config.tensorboard and trainer.method.writes:
        monitors.append(TensorBoardMonitor(trainer, config.tensorboard, probes, pairs, report=report.line))

    with _tqdm()(
        total=trainer.total_words, unit=" words", unit_scale=True, disable=None if trainer.method.writes else True
    ) as bar:
        bar.update(trainer.words_done)
        bar.unpause()

        def on_progress(t: Trainer) -> None:
            bar.set_postfix_str(f"loss {t.loss:.4f}, lr {t.lr:.3g}", refresh=False)
            bar.update(t.words_done - bar.n)
            for monitor in monitors:
                monitor.on_progress(t)

        def on_epoch(t: Trainer) -> None:
            rate = t.words_done / max(t.state.train_seconds, 1e-9) / 1e6
            done = f"epoch {t.state.epoch}/{config.epochs}"
            report.line(f"{done}  loss {t.loss:.4f}  lr {t.lr:.3g}  {rate:.2f} M words/s")
            for line in neighbours(t.keyed_vectors(), probes) if probes else []:
                report.line(line)
            for monitor in monitors:
                monitor.on_epoch(t)

        try:
            trainer.fit(on_progress=on_progress, on_epoch=on_epoch, checkpoint_dir=directory)
        finally:
            for monitor in monitors:
                monitor.close(trainer)

    if not trainer.method.writes:
        return trainer
    metrics = {"prepare_seconds": prepare_seconds, **trainer.metrics()}
    tensors = trainer.method.saved_tensors()
    save_model(
        directory,
        tensors.pop("in_weight"),
        tensors.pop("out_weight", None),
        corpus.vocab.words,
        corpus.vocab.counts,
        config.to_dict(),
        metrics,
        trainer.state.history,
        tensors,
    )
    remove_checkpoints(directory)
    if builtin and all(word in corpus.vocab for word in ("king", "woman", "man")):
        vectors = trainer.keyed_vectors()
        (queen, _), *_ = vectors.most_similar(["king", "woman"], ["man"], topn=1)
        report.line(f"  king - man + woman = {queen}")
    report.line(
        f"trained {trainer.total_words:,} words in {metrics['train_seconds']:.2f} s "
        f"({metrics['raw_words_per_second'] / 1e6:.2f} M words/s, {trainer.where}); saved to {directory}"
    )
    return trainer


def neighbours(vectors: KeyedVectors, words: Sequence[str], topn: int = 5) -> list[str]:
    """One line per word: its nearest neighbours, or that it is not in the vocabulary."""
    lines = []
    for word in words:
        if word in vectors:
            near = ", ".join(f"{other} {score:.2f}" for other, score in vectors.most_similar(word, topn=topn))
        else:
            near = "(not in the vocabulary)"
        lines.append(f"  {word:>12}: {near}")
    return lines


def make_writable(directory: Path) -> bool:
    """Make the output directory and try to write in it, before hours are spent; tell whether it is new.

    Raises:
        OSError: the directory cannot be made or written to; the message names it.
    """
    try:
        new = not directory.exists()
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".writable.{os.getpid()}"
        make_new(probe)
        probe.unlink()
    except OSError as error:
        raise OSError(f"out: cannot write to {directory}: {error.strerror or error}") from error
    return new


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit status: 0, 2 for bad input, 130 after Ctrl-C, 143 after SIGTERM."""
    try:
        config, resume = parse_arguments(arguments)
        _run(config, resume)  # and no copy of the vectors, which nobody looks at
    except Interrupted as stop:
        print(f"\n{stop}; go on with the same command and --resume", file=sys.stderr)
        return 128 + stop.signal
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, MemoryError, TrainingError, DownloadError) as error:
        only_text = isinstance(error, OSError) and error.filename is None and error.strerror
        print(f"error: {error.strerror if only_text else error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
