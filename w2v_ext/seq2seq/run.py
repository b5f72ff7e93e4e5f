"""Training as the command line does it: text, model, progress bar, logs, files."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import torch

from ..embeddings import pretrained_embedding
from ..files import write_files
from ..formats import load_vectors
from ..train import make_writable
from ..vocab import Vocabulary
from .config import Seq2SeqConfig, build_model
from .corpus import TrainingText, prepare_text
from .decoding import SearchOptions
from .files import LAST, METRICS, MODEL, load_model, load_text, save_text
from .model import Seq2SeqModel
from .report import Report, TensorBoard
from .training import Seq2SeqTrainer
from .translate import Translator
from .validation import Validation


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA where there is one. ValueError where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise ValueError(f"device: expected cpu, cuda or auto, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected cpu or auto, as this PyTorch finds no CUDA device, got 'cuda'")
    return torch.device(name)


def load_pretrained(model: Seq2SeqModel, config: Seq2SeqConfig, text: TrainingText, report: Report) -> None:
    """Put pretrained vectors into the embeddings, as the settings say.

    Raises:
        ValueError, OSError: vectors that cannot be read, or of another size than `embed_size`.
    """
    for side, path, part, vocab in (
        ("source", config.src_vectors, model.encoder, text.files.src_vocab),
        ("target", config.tgt_vectors, model.decoder, text.files.tgt_vocab),
    ):
        if path is None:
            continue
        if not Path(path).exists():
            raise FileNotFoundError(
                f"{'src' if side == 'source' else 'tgt'}_vectors: no such file or directory: {path}"
            )
        found = vectors_for(vocab, path, config)
        embedding = part.embed.embedding
        if found.embedding.weight.shape != embedding.weight.shape:
            raise ValueError(
                f"embed_size: expected {found.embedding.weight.shape[1]}, the size of the vectors in {path}, got "
                f"{config.embed_size}"
            )
        with torch.no_grad():
            embedding.weight.copy_(found.embedding.weight)
        embedding.weight.requires_grad_(not config.freeze_vectors)
        report.line(f"{side} vectors: {len(found.found):,} of {len(vocab) - 4:,} tokens found in {path}")


def vectors_for(vocab: Vocabulary, path: str, config: Seq2SeqConfig) -> Any:
    """The vectors of a file for the words of a vocabulary; a subword that begins a word is looked up without its mark.

    The file's vectors are scaled to a mean length of 1, that of the initial values, so that they may be output weights.
    """
    table = load_vectors(path)
    words = [word.removeprefix("▁") or word for word in vocab.words]
    by_word = {word: i for i, word in enumerate(table.words)}
    length = float((table.vectors**2).sum(1).mean() ** 0.5) or 1.0
    source = {
        own: table.vectors[by_word[name]] / length
        for own, word in zip(vocab.words, words, strict=True)
        if (name := word if word in by_word else word.lower()) in by_word
    }
    return pretrained_embedding(vocab.words, source, seed=config.seed)


def train(config: Seq2SeqConfig, *, resume: bool = False, out: TextIO | None = None) -> dict[str, Any]:
    """Train as the command line does, and write the model directory.

    Args:
        config: the settings.
        resume: go on from ``last.safetensors`` in ``config.out``.
        out: where the report goes (default: standard output).

    Returns:
        What is in ``metrics.json``.
    """
    directory = Path(config.out)
    report = Report(out or sys.stdout)
    device = choose_device(config.device)
    files = load_text(directory)[1] if resume and (directory / LAST).exists() else None
    made = make_writable(directory)
    try:
        return _train(config, directory, device, files, resume, report)
    except BaseException:
        if made and not any(directory.iterdir()):
            directory.rmdir()  # nothing came of it
        raise


def _train(
    config: Seq2SeqConfig, directory: Path, device: torch.device, files: Any, resume: bool, report: Report
) -> dict:
    from tqdm import tqdm

    text = prepare_text(config, files, report.line)
    torch.manual_seed(config.seed)
    model = build_model(config, len(text.files.src_vocab), len(text.files.tgt_vocab))
    load_pretrained(model, config, text, report)
    model.to(device).flatten_parameters()
    trainer = Seq2SeqTrainer(model, text, config, directory)
    size = sum(p.numel() for p in model.parameters())
    report.line(f"model: {size:,} parameters, {device}, {str(trainer.dtype).removeprefix('torch.')}")
    if resume:
        trainer.load_state()
        report.line(f"resumed in epoch {trainer.state.epoch + 1}, step {trainer.state.step:,}")
    elif (directory / LAST).exists():
        report.line(f"note: {directory / LAST} is of an earlier run; starting anew (--resume goes on)")
        for name in (LAST, MODEL, METRICS):
            (directory / name).unlink(missing_ok=True)
        trainer.remove_snapshots()
    save_text(directory, config, text.files)

    board = TensorBoard(directory, text, config) if config.tensorboard else None
    total = int((text.train.tgt.lengths + 1).sum()) * config.epochs
    with tqdm(total=total, unit=" tokens", unit_scale=True, disable=None) as bar:
        bar.update(trainer.state.tokens)
        bar.unpause()

        def on_step(t: Seq2SeqTrainer, tokens: int) -> None:
            bar.set_postfix_str(f"loss {t.loss:.3f}, lr {t.lr():.2g}", refresh=False)
            bar.update(tokens)
            if board is not None:
                board.step(t)

        def on_validation(t: Seq2SeqTrainer, result: Validation) -> None:
            report.validation(t, result)
            if board is not None:
                board.validation(t, result)

        trainer.fit(on_step=on_step, on_validation=on_validation)
    if config.average > 1 and (averaged := trainer.average()) is not None:
        report.line(f"average of the last {min(config.average, len(trainer.state.history))}: {_scores(averaged)}")
    state = trainer.state
    metrics = {
        "epochs": state.epoch,
        "steps": state.step,
        "best_epoch": state.best_epoch,
        "target_tokens": state.tokens,
        "tokens_per_second": state.tokens / max(state.train_seconds, 1e-9),
        "train_seconds": state.train_seconds,
        "seconds_with_validation": state.seconds,
        "cpu_seconds_with_validation": state.cpu_seconds,
        "precision": str(trainer.dtype).removeprefix("torch."),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "history": state.history,
    }
    data = (json.dumps(metrics, indent=1) + "\n").encode()
    write_files({directory / METRICS: lambda target: target.write_bytes(data)})
    trainer.remove_snapshots()
    if board is not None:
        board.close()
    report.line(
        f"trained {state.tokens:,} target tokens in {state.train_seconds:.1f} s ({metrics['tokens_per_second']:,.0f} "
        f"tokens/s), best after epoch {state.best_epoch}; saved to {directory}"
    )
    if config.is_builtin:
        _print_back(directory, device, text, report)
    return metrics


def _scores(result: Validation) -> str:
    parts = [] if result.loss is None else [f"valid loss {result.loss:.4f}"]
    return ", ".join(parts + ([] if result.bleu is None else [f"BLEU {result.bleu:.2f}"])) or "no validation text"


def _print_back(directory: Path, device: torch.device, text: TrainingText, report: Report) -> None:
    started = time.perf_counter()
    model, _, files = load_model(directory, device)
    right = 0
    for source, target, found in zip(
        *text.valid_lines, Translator(model, files, SearchOptions()).translate(text.valid_lines[0]), strict=True
    ):
        right += found.text == target
        report.line(f"  {source} -> {found.text}")
    report.line(f"{right} of {len(text.valid_lines[0])} pairs by heart ({time.perf_counter() - started:.2f} s)")
