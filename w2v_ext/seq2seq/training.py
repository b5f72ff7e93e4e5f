"""The training loop: batches, steps, validation, checkpoints, and going on exactly where one stopped."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from .. import ops
from ..files import FormatError
from ..trainer import Interrupted, TrainingError
from .config import Seq2SeqConfig
from .corpus import TrainingText
from .data import Batch, make_batch, make_batches
from .files import LAST, MODEL, load_tensors, model_tensors, put_tensors, save_tensors, save_weights
from .loss import chunked_cross_entropy, sampled_loss, set_noise_bias
from .model import Seq2SeqModel
from .state import TrainState, choose_precision
from .validation import Validation, validate

_BETAS, _EPS = (0.9, 0.98), 1e-9


class Seq2SeqTrainer:
    """Trains a model on encoded text.

    Batches, dropout and draws follow from the seed and the place in the run; with one device, one thread count and
    one PyTorch a run that was interrupted and resumed ends with the same bits as one that was not.

    Args:
        model: on the device to train on.
        text: training and validation pairs.
        config: the settings.
        directory: of the model; written to at every validation.

    Attributes:
        state: how far the run is.
    """

    def __init__(self, model: Seq2SeqModel, text: TrainingText, config: Seq2SeqConfig, directory: str | Path) -> None:
        self.model, self.text, self.config, self.directory = model, text, config, Path(directory)
        self.state = TrainState()
        self.device = next(model.parameters()).device
        self.dtype = choose_precision(config.precision, self.device)
        if self.dtype == torch.float16 and self.device.type == "cpu":
            raise ValueError("precision: expected float32, bfloat16 or auto on the CPU, got float16")
        self.alias = None
        if config.loss == "negative-sampling":
            noise = torch.from_numpy(text.files.tgt_vocab.counts.astype("float64"))
            noise[2] = len(text.train)  # <EOS> ends every sentence
            noise = noise.pow(0.75) / noise.pow(0.75).sum()
            self.alias = ops.alias_table(noise)
            set_noise_bias(model.decoder.output_bias, noise)
            model.decoder.output_bias.requires_grad_(False)
        self.parameters = {name: p for name, p in model_tensors(model).items() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=config.lr,
            betas=_BETAS,
            eps=_EPS,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self._stop = 0  # the signal that asked for it
        self._lengths = text.train.src.lengths, text.train.tgt.lengths + 1
        self._batches: tuple[int, list] = (-1, [])
        torch.manual_seed(config.seed)

    # ---- the plan -----------------------------------------------------------------------------------------------

    def batches(self) -> list:
        """The rows of each batch of the current epoch."""
        if self._batches[0] != self.state.epoch:
            seed = (self.config.seed, self.state.epoch)
            self._batches = (self.state.epoch, make_batches(*self._lengths, self.config.batch_tokens, seed))
        return self._batches[1]

    def lr(self) -> float:
        """The learning rate of the next step."""
        config, step = self.config, self.state.step + 1
        rate = config.lr * self.state.lr_factor
        if step < config.warmup:
            return rate * step / config.warmup
        if config.schedule == "inverse-sqrt":
            return rate * math.sqrt(max(config.warmup, 1) / step)
        if config.schedule == "cosine":
            done = (self.state.epoch + self.state.batch / max(len(self.batches()), 1)) / config.epochs
            return rate * max(0.5 * (1 + math.cos(math.pi * min(done, 1))), 0.01)
        return rate

    @property
    def loss(self) -> float:
        """Mean loss per target token of this epoch so far (NaN before the first)."""
        return self.state.epoch_loss / self.state.epoch_tokens if self.state.epoch_tokens else float("nan")

    # ---- a step -------------------------------------------------------------------------------------------------

    def batch_loss(self, batch: Batch) -> Tensor:
        """The loss of a batch, summed over its target tokens; under the settings' precision."""
        config, decoder = self.config, self.model.decoder
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            if config.teacher_forcing < 1:
                logits = self.model(batch.src, batch.src_lengths, batch.tgt_in, config.teacher_forcing)
                return torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1).float(),
                    batch.tgt_out.flatten(),
                    ignore_index=0,
                    label_smoothing=config.label_smoothing,
                    reduction="sum",
                )
            out = self.model.features(batch.src, batch.src_lengths, batch.tgt_in)
            if self.alias is not None:
                return sampled_loss(
                    out.features,
                    decoder.output_weight,
                    batch.tgt_out,
                    self.alias,
                    negative=config.negative,
                    seed=(config.seed << 32) + self.state.epoch * 1_000_003 + self.state.batch,
                    reduction="sum",
                )
            return chunked_cross_entropy(
                out.features,
                decoder.output_weight,
                decoder.output_bias,
                batch.tgt_out,
                label_smoothing=config.label_smoothing,
                reduction="sum",
            )

    def train_step(self) -> int:
        """One optimizer step over the next `accumulate` batches; gives its target tokens.

        Raises:
            TrainingError: the loss or a gradient is no longer finite; weights are as before the step.
        """
        state, config = self.state, self.config
        started, cpu_started = time.perf_counter(), time.process_time()
        group = self.batches()[state.batch : state.batch + config.accumulate]
        batches = [make_batch(self.text.train, rows) for rows in group]
        tokens = sum(batch.num_tokens for batch in batches)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum = 0.0
        for batch in batches:
            loss = self.batch_loss(batch.to(self.device))
            loss_sum += (value := loss.item())
            if not math.isfinite(value):
                self._diverged(f"the loss became {value}")
            self.scaler.scale(loss / tokens).backward()
            state.batch += 1
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), config.clip or float("inf"))
        if not self.scaler.is_enabled() and not math.isfinite(norm.item()):
            self._diverged(f"the gradient's length became {norm.item()}")
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        state.step += 1
        state.epoch_loss += loss_sum
        state.epoch_tokens += tokens
        state.tokens += tokens
        seconds = time.perf_counter() - started
        state.seconds += seconds
        state.train_seconds += seconds
        state.cpu_seconds += time.process_time() - cpu_started
        return tokens

    def _diverged(self, what: str) -> None:
        kept = [name for name in (MODEL, LAST) if (self.directory / name).exists()]
        saved = f"; {' and '.join(kept)} in {self.directory} are as they were last saved" if kept else ""
        raise TrainingError(
            f"lr: {what} in step {self.state.step + 1} (epoch {self.state.epoch + 1}){saved}; try a learning rate "
            f"below {self.config.lr}, or clip"
        )

    # ---- the run ------------------------------------------------------------------------------------------------

    def fit(
        self,
        *,
        on_step: Callable[[Seq2SeqTrainer, int], None] | None = None,
        on_validation: Callable[[Seq2SeqTrainer, Validation], None] | None = None,
    ) -> Seq2SeqTrainer:
        """Train to the last epoch, to a limit of minutes, or until validation no longer improves.

        Args:
            on_step: called after each step with this trainer and the step's target tokens.
            on_validation: called after each validation.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, with the state saved.
            TrainingError: the loss is no longer finite; what was saved last is kept.
        """
        state, config = self.state, self.config
        last_save = time.monotonic()
        previous = {}
        if _is_main():
            previous = {number: signal.signal(number, self._request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        self._stop = 0
        try:
            while not self.is_finished():
                while state.batch < len(self.batches()) and not self._stop and not self._out_of_time():
                    tokens = self.train_step()
                    if on_step is not None:
                        on_step(self, tokens)
                    if config.checkpoint_minutes and time.monotonic() - last_save > 60 * config.checkpoint_minutes:
                        self.save_state()
                        last_save = time.monotonic()
                ended = state.batch >= len(self.batches())
                stop = self._stop
                if not ended and stop:
                    self.save_state()
                    raise Interrupted(self.directory / LAST, stop)
                if ended:
                    state.epoch, state.batch = state.epoch + 1, 0
                if not ended or state.epoch % config.validate_every == 0 or self.is_finished():
                    result = self._validate()
                    if on_validation is not None:
                        on_validation(self, result)
                if ended:
                    state.epoch_loss, state.epoch_tokens = 0.0, 0
                self.save_state()
                last_save = time.monotonic()
                if stop and not self.is_finished():
                    raise Interrupted(self.directory / LAST, stop)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self

    def is_finished(self) -> bool:
        """Whether the last epoch, the limit of minutes, or the end of patience has been reached."""
        stopped = self.config.early_stop and self.state.bad_validations >= self.config.early_stop
        return self.state.epoch >= self.config.epochs or bool(stopped) or self._out_of_time()

    def _out_of_time(self) -> bool:
        limits = (self.config.max_minutes, self.state.seconds), (self.config.max_cpu_minutes, self.state.cpu_seconds)
        return any(minutes and seconds >= 60 * minutes for minutes, seconds in limits)

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        if self._stop:  # the second signal does not wait for the step
            raise KeyboardInterrupt
        self._stop = number

    def _validate(self) -> Validation:
        state, config = self.state, self.config
        started, cpu_started = time.perf_counter(), time.process_time()
        result = validate(self.model, self.text, config, self.dtype)
        state.seconds += time.perf_counter() - started
        state.cpu_seconds += time.process_time() - cpu_started
        if result.loss is not None and not math.isfinite(result.loss):
            self._diverged(f"the validation loss became {result.loss}")
        entry = {
            "epoch": state.epoch,
            "step": state.step,
            "train_loss": self.loss,
            "valid_loss": result.loss,
            "bleu": result.bleu,
            "lr": self.lr(),
            "seconds": state.seconds,
            "cpu_seconds": state.cpu_seconds,
        }
        best = self._best_score()
        state.history.append(entry)
        if config.average > 1:
            save_weights(self._snapshot(state.step), self.model, self.text.files)
            for old in state.history[: -config.average]:
                self._snapshot(old["step"]).unlink(missing_ok=True)
        if self._score(entry) > best:
            state.bad_validations = state.since_decay = 0
            state.best_epoch = state.epoch
            save_weights(self.directory / MODEL, self.model, self.text.files, step=state.step, averaged=1)
        else:
            state.bad_validations += 1
            state.since_decay += 1
            if config.schedule == "plateau" and state.since_decay >= config.patience:
                state.lr_factor *= config.decay
                state.since_decay = 0
        return result

    def _score(self, entry: dict) -> float:
        """Higher is better; without validation text, later is better."""
        if self.config.metric == "bleu" and entry["bleu"] is not None:
            return entry["bleu"]
        return float(entry["step"]) if entry["valid_loss"] is None else -entry["valid_loss"]

    def _best_score(self) -> float:
        return max(map(self._score, self.state.history), default=-math.inf)

    # ---- averaging ----------------------------------------------------------------------------------------------

    def _snapshot(self, step: int) -> Path:
        return self.directory / f"snapshot-{step:08d}.safetensors"

    def average(self) -> Validation | None:
        """Average the last validated models, and keep the average as the model if it is better than the best one.

        Returns:
            How the average did; None where there is nothing to average.
        """
        paths = [path for e in self.state.history if (path := self._snapshot(e["step"])).exists()]
        result = None
        if len(paths) > 1:
            sums: dict[str, Tensor] = {}
            for path in paths:
                for name, tensor in load_tensors(path)[0].items():
                    sums[name] = sums.get(name, 0) + tensor.double()
            current = {name: p.detach().clone() for name, p in model_tensors(self.model).items()}
            put_tensors(self.model, {name: (t / len(paths)).float() for name, t in sums.items()}, "average")
            result = validate(self.model, self.text, self.config, self.dtype)
            found = {"step": self.state.step, "valid_loss": result.loss, "bleu": result.bleu}
            if self._score(found) > self._best_score():
                notes = {"step": self.state.step, "averaged": len(paths)}
                save_weights(self.directory / MODEL, self.model, self.text.files, **notes)
            put_tensors(self.model, current, "model")
        return result

    def remove_snapshots(self) -> None:
        """Remove the models kept for averaging."""
        for path in self.directory.glob("snapshot-*.safetensors"):
            path.unlink()

    # ---- the state ----------------------------------------------------------------------------------------------

    def save_state(self) -> Path:
        """Write weights, optimizer, random numbers and progress to one file, whole or not at all; gives its path."""
        tensors = {f"model.{name}": p for name, p in model_tensors(self.model).items()}
        for name, p in self.parameters.items():
            for key, value in self.optimizer.state[p].items():
                tensors[f"train.{key}.{name}"] = value
        tensors["train.rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["train.rng.cuda"] = torch.cuda.get_rng_state(self.device)
        notes = {
            "state": asdict(self.state),
            "config": self.config.to_dict(),
            "text": self.text.files.checksum(),
            "pairs": self.text.checksum(),
            "scaler": self.scaler.state_dict(),
        }
        save_tensors(self.directory / LAST, tensors, notes)
        return self.directory / LAST

    def load_state(self) -> None:
        """Go on from what `save_state` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or of other settings (the first is named) or another text.
        """
        path = self.directory / LAST
        if not path.exists():
            raise FileNotFoundError(f"resume: no state to go on from: {path} does not exist")
        tensors, notes = load_tensors(path)
        try:
            state = TrainState(**notes["state"])
            saved = Seq2SeqConfig.from_dict(notes["config"], str(path))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"resume: {path} is not a complete state: {error}") from error
        for name in self.config.changed_settings(saved):
            raise ValueError(
                f"resume: setting {name!r} has changed: {path} was made with {getattr(saved, name)!r}, now it is "
                f"{getattr(self.config, name)!r}"
            )
        if notes.get("text") != self.text.files.checksum() or notes.get("pairs") != self.text.checksum():
            raise ValueError(f"resume: the training text has changed since {path} was written")
        weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        put_tensors(self.model, weights, path)
        try:
            for name, p in self.parameters.items():
                own = (
                    {key: tensors[f"train.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
                    if state.step
                    else {}
                )
                self.optimizer.state[p] = {
                    key: value.clone() if key == "step" and self.device.type == "cpu" else value.to(self.device)
                    for key, value in own.items()
                }
            torch.set_rng_state(tensors["train.rng.cpu"])
            if self.device.type == "cuda" and "train.rng.cuda" in tensors:
                torch.cuda.set_rng_state(tensors["train.rng.cuda"], self.device)
            self.scaler.load_state_dict(notes["scaler"])
        except (KeyError, RuntimeError) as error:
            raise FormatError(f"resume: {path} is not a complete state: {error}") from error
        self.state = state


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()
