"""What a training says: lines above the progress bar, and TensorBoard."""

from __future__ import annotations

from pathlib import Path

from .. import reporting
from .config import Seq2SeqConfig
from .corpus import TrainingText
from .training import Seq2SeqTrainer
from .translate import Translator
from .validation import Validation


class Report(reporting.Report):
    """Lines for the user on a training of translations."""

    def validation(self, trainer: Seq2SeqTrainer, result: Validation) -> None:
        """One line on the epoch."""
        state, config = trainer.state, trainer.config
        rate = state.tokens / max(state.train_seconds, 1e-9)
        parts = [f"epoch {state.epoch}/{config.epochs}", f"loss {trainer.loss:.4f}"]
        if result.loss is not None:
            parts.append(f"valid loss {result.loss:.4f}")
        if result.bleu is not None:
            parts.append(f"BLEU {result.bleu:.2f}")
        seconds = f"{state.seconds:.0f} s (CPU {state.cpu_seconds:.0f} s)"
        parts += [f"lr {trainer.lr():.2g}", f"{rate:,.0f} tokens/s", seconds]
        if state.bad_validations == 0:
            parts.append("best")
        self.line("  ".join(parts))


class TensorBoard:
    """Loss, BLEU, learning rate, sample translations and attention pictures in DIR/tensorboard.

    Raises:
        ImportError: tensorboard is missing; the extra is named.
    """

    def __init__(self, directory: Path, text: TrainingText, config: Seq2SeqConfig) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ImportError("--tensorboard needs the package tensorboard: pip install 'w2v_ext[viz]'") from None
        self._writer = SummaryWriter(str(directory / "tensorboard"))
        self._text, self._config = text, config

    def step(self, trainer: Seq2SeqTrainer) -> None:
        """Loss and learning rate, every tenth step."""
        if trainer.state.step % 10 == 0:
            self._writer.add_scalar("train/loss", trainer.loss, trainer.state.step)
            self._writer.add_scalar("train/lr", trainer.lr(), trainer.state.step)

    def validation(self, trainer: Seq2SeqTrainer, result: Validation) -> None:
        """Loss, BLEU, samples, and where the first of them looks."""
        step, lines = trainer.state.step, self._text.valid_lines
        if result.loss is not None:
            self._writer.add_scalar("valid/loss", result.loss, step)
        if result.bleu is not None:
            self._writer.add_scalar("valid/BLEU", result.bleu, step)
        for i, found in enumerate(result.translations[: self._config.samples]):
            self._writer.add_text(f"sample/{i + 1}", f"{lines[0][i]}\n\n**{found}**\n\n{lines[1][i]}", step)
        if self._config.samples and result.translations and trainer.model.decoder.attention is not None:
            try:
                from .plots import attention_figure

                picture = attention_figure(*Translator(trainer.model, self._text.files).align(lines[0][0]))
            except ImportError:  # matplotlib is in the same extra, but may be missing
                return
            self._writer.add_figure("attention", picture, step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
