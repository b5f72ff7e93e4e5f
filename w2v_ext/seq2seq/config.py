"""The settings of a translation model and its training: one dataclass, from which the command line is made."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from ..config import flat_settings
from ..files import parse_json
from .attention import AttentionName
from .decoder import LSTMDecoder
from .dropout import check_probabilities
from .encoder import LSTMEncoder
from .model import ContextName, Seq2SeqModel
from .tokenizers import TokenizerName

SETTINGS_OF_THE_MACHINE = (
    "out", "device", "epochs", "max_minutes", "max_cpu_minutes", "early_stop", "checkpoint_minutes", "samples"
)  # fmt: skip
"""Settings that may change between a run and its resumption; all others shape what has been trained so far."""

Schedule = Literal["plateau", "inverse-sqrt", "cosine", "constant"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Seq2SeqConfig:
    """Settings of ``python -m w2v_ext.seq2seq train`` and `Seq2SeqTrainer`.

    Raises:
        ValueError: a setting of the wrong type or out of range; the message names it, the rule and the value.
    """

    src: str | None = None
    """Training text of the source, a sentence a line (plain, .gz, .xz, .zst). Without it and --tsv, five built-in
    Chinese-English pairs are learnt by heart."""
    tgt: str | None = None
    """Training text of the target, line by line the translation of --src."""
    tsv: str | None = None
    """Training text as one file of tab-separated columns, in place of --src and --tgt."""
    columns: tuple[int, int] = (1, 2)
    """Columns of source and target in TSV files, counted from 1."""
    valid_src: str | None = None
    """Validation text of the source."""
    valid_tgt: str | None = None
    """Validation text of the target."""
    valid_tsv: str | None = None
    """Validation text as a TSV file."""
    out: str = "translation"
    """Directory of the model."""

    tokenizer: TokenizerName = "bpe"
    """How lines are cut into tokens."""
    tgt_tokenizer: TokenizerName | None = None
    """Another tokenizer for the target."""
    lowercase: bool = False
    """Lower-case the text."""
    joint: bool = False
    """One tokenizer and one vocabulary for both sides, of the text of both."""
    subword_vocab: int = 6000
    """Subwords of bpe and unigram (of each side, or of both when joint)."""
    min_count: int = 1
    """Tokens that occur less often become <UNK>."""
    max_vocab: int | None = None
    """Keep at most this many tokens a side, the most frequent."""
    max_len: int = 100
    """Training pairs with more tokens on a side are left out, and counted."""

    embed_size: int = 256
    """Size of the word vectors."""
    hidden_size: int = 512
    """Units of the decoder; a bidirectional encoder has half as many in each direction."""
    num_layers: int = 1
    """Layers of encoder and decoder."""
    bidirectional: bool = True
    """Read the source from both sides."""
    attention: AttentionName = "luong"
    """Where the decoder looks: luong (general), dot, bahdanau (additive), or none."""
    deep_attention: bool = False
    """Attend with the decoder's first layer, and give what it finds to the layers above. Needs two layers."""
    input_feeding: bool = False
    """Feed each step's features to the next step. Slow: the decoder then is a loop over steps."""
    context: ContextName = "none"
    """A vector of the whole source, given to every step of the decoder: last state, mean or max of the outputs."""
    tied: bool = True
    """The output weight is the target's embedding."""
    share_embeddings: bool = False
    """Source and target share the embedding; needs --joint."""
    src_vectors: str | None = None
    """Pretrained vectors of the source (a model directory or a file of any format)."""
    tgt_vectors: str | None = None
    """Pretrained vectors of the target."""
    freeze_vectors: bool = False
    """Keep pretrained vectors as they are."""

    dropout: float = 0.3
    """Dropout between layers and on outputs."""
    embed_dropout: float = 0.3
    """Dropout on word vectors."""
    word_dropout: float = 0.0
    """Probability that a word's vector becomes zero as a whole."""
    label_smoothing: float = 0.1
    """Share of the probability that is spread over all words."""
    teacher_forcing: float = 1.0
    """Probability that the decoder reads the true last word, not its own. Below 1, it is a loop over steps."""
    loss: Literal["softmax", "negative-sampling"] = "softmax"
    """Cross-entropy over all words, or negative sampling, for vocabularies of hundreds of thousands."""
    negative: int = 64
    """Words drawn per target in negative sampling."""

    epochs: int = 30
    """Passes over the training text, at most."""
    max_minutes: float = 0.0
    """Stop after this many minutes of training and validation; 0 for no limit."""
    max_cpu_minutes: float = 0.0
    """Stop after this many minutes of processor time, those of all threads added up: a limit that does not depend on
    what else the machine does. 0 for no limit."""
    batch_tokens: int = 3000
    """Tokens in a batch, padding included: pairs x the longer side."""
    accumulate: int = 1
    """Batches whose gradients are added up before a step."""
    lr: float = 1e-3
    """Adam's learning rate after the warm-up."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW)."""
    clip: float = 1.0
    """Gradients longer than this are shortened to it; 0 does not."""
    warmup: int = 200
    """Steps in which the learning rate rises."""
    schedule: Schedule = "plateau"
    """How the learning rate falls: when validation no longer improves, with the steps, or along a cosine to the last
    epoch."""
    decay: float = 0.5
    """Factor of a plateau."""
    patience: int = 3
    """Validations without improvement before a decay."""
    early_stop: int = 0
    """Stop after this many validations without improvement; 0 never does."""
    validate_every: int = 1
    """Epochs between validations."""
    metric: Literal["bleu", "loss"] = "bleu"
    """What the best model is best in."""
    average: int = 5
    """The last so many validated models are averaged at the end, and kept if that is better; 1 does not."""

    precision: Precision = "auto"
    """Of matrix products: auto takes bfloat16 where the processor has instructions for it, else float32."""
    seed: int = 1
    """Seed of every random number."""
    device: Literal["cpu", "cuda", "auto"] = "auto"
    """Where to train."""
    checkpoint_minutes: float = 10.0
    """Save the state of the training this often, besides after each validation."""
    samples: int = 3
    """Validation sentences whose translations are logged."""
    tensorboard: bool = False
    """Log loss, BLEU, learning rate, sample translations and attention to DIR/tensorboard."""

    def __post_init__(self) -> None:
        """Check every setting."""
        hints = get_type_hints(type(self))
        for field in fields(self):
            self._check_type(field.name, hints[field.name])
        for names, low in (
            ("subword_vocab max_vocab", 2),
            ("min_count max_len embed_size hidden_size num_layers negative epochs batch_tokens accumulate", 1),
            ("patience validate_every average", 1),
            ("warmup early_stop seed samples", 0),
        ):
            for name in names.split():
                value = getattr(self, name)
                if value is not None and not low <= value < 2**62:
                    raise ValueError(f"{name}: expected an integer >= {low}, got {value!r}")
        shares = ("dropout", "embed_dropout", "word_dropout", "label_smoothing")
        check_probabilities(**{name: getattr(self, name) for name in shares})
        if not 0 <= self.teacher_forcing <= 1:
            raise ValueError(f"teacher_forcing: expected a number between 0 and 1, got {self.teacher_forcing!r}")
        for name in ("max_minutes", "max_cpu_minutes", "weight_decay", "clip", "checkpoint_minutes"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name}: expected a number >= 0, got {getattr(self, name)!r}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr: expected a number > 0, got {self.lr!r}")
        if not 0 < self.decay < 1:
            raise ValueError(f"decay: expected a number between 0 and 1, got {self.decay!r}")
        if len(self.columns) != 2 or min(self.columns) < 1 or self.columns[0] == self.columns[1]:
            raise ValueError(f"columns: expected two different places >= 1, got {self.columns!r}")
        self._check_together()

    def _check_type(self, name: str, hint: Any) -> None:
        value = getattr(self, name)
        allowed = (
            [kind for kind in get_args(hint) if kind is not type(None)] if type(None) in get_args(hint) else [hint]
        )
        if value is None and type(None) in get_args(hint):
            return
        kind = allowed[0]
        if get_args(kind) and kind.__class__ is Literal["x"].__class__:
            if value not in get_args(kind):
                raise ValueError(f"{name}: expected one of {', '.join(get_args(kind))}, got {value!r}")
        elif name == "columns":
            if not isinstance(value, (list, tuple)) or not all(type(place) is int for place in value):
                raise ValueError(f"columns: expected two integers, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        elif kind is float:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{name}: expected a number, got {value!r}")
            object.__setattr__(self, name, float(value))
        elif type(value) is not kind:
            rule = {int: "an integer", bool: "true or false", str: "text"}[kind]
            raise ValueError(f"{name}: expected {rule}, got {value!r}")
        elif kind is str and not value:
            raise ValueError(f"{name}: expected a path, got {value!r}")

    def _check_together(self) -> None:
        if self.tsv is not None and (self.src is not None or self.tgt is not None):
            raise ValueError(
                f"tsv: expected either --tsv or --src and --tgt, got {self.tsv} with {self.src or self.tgt}"
            )
        for a, b in (("src", "tgt"), ("valid_src", "valid_tgt")):
            if (getattr(self, a) is None) != (getattr(self, b) is None):
                given, missing = (a, b) if getattr(self, b) is None else (b, a)
                raise ValueError(f"{missing}: expected a file beside {given}={getattr(self, given)}, got none")
        if self.valid_tsv is not None and self.valid_src is not None:
            raise ValueError(f"valid_tsv: expected either it or valid_src and valid_tgt, got {self.valid_tsv} and both")
        if self.joint and self.tgt_tokenizer not in (None, self.tokenizer):
            raise ValueError(
                f"tgt_tokenizer: expected {self.tokenizer}, as the other side, with joint, got {self.tgt_tokenizer}"
            )
        if self.share_embeddings and not self.joint:
            raise ValueError("share_embeddings: expected joint, as both sides need one vocabulary")
        if self.deep_attention and (self.attention == "none" or self.num_layers < 2 or self.input_feeding):
            raise ValueError(
                "deep_attention: expected an attention, num_layers >= 2 and no input_feeding, got "
                f"attention={self.attention}, num_layers={self.num_layers}, input_feeding={self.input_feeding}"
            )
        if self.bidirectional and self.hidden_size % 2:
            raise ValueError(f"hidden_size: expected an even number with bidirectional, got {self.hidden_size}")
        if self.freeze_vectors and self.src_vectors is None and self.tgt_vectors is None:
            raise ValueError("freeze_vectors: expected src_vectors or tgt_vectors, got neither")
        if self.teacher_forcing < 1 and self.loss != "softmax":
            raise ValueError(f"teacher_forcing: expected 1 with loss={self.loss}, got {self.teacher_forcing}")

    @property
    def is_builtin(self) -> bool:
        """Whether the five built-in pairs are meant."""
        return self.src is None and self.tsv is None

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, settings: dict[str, Any], source: str = "settings") -> Seq2SeqConfig:
        """Make a configuration from a mapping; unknown names are errors that name `source`."""
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise ValueError(f"{source}: unknown setting {name!r}; known: {', '.join(known)}")
        return cls(**settings)

    @classmethod
    def from_file(cls, path: str | Path) -> Seq2SeqConfig:
        """Read settings from a YAML or JSON file (a model's ``config.json`` is one); dashes in names are allowed."""
        import yaml

        try:
            text = Path(path).read_text(encoding="utf-8")
            loaded = parse_json(text) if str(path).endswith(".json") else yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ValueError(f"config: {path} is not valid YAML or JSON: {error}") from error
        if not isinstance(loaded, dict):
            raise ValueError(f"config: expected {path} to hold a mapping of settings, got {type(loaded).__name__}")
        return cls.from_dict(flat_settings(loaded, path), f"config {path}")

    def changed_settings(self, other: Seq2SeqConfig) -> list[str]:
        """Names of the settings that shape the training and differ between the two."""
        return [
            field.name
            for field in fields(self)
            if field.name not in SETTINGS_OF_THE_MACHINE and getattr(self, field.name) != getattr(other, field.name)
        ]


def build_model(config: Seq2SeqConfig, src_vocab_size: int, tgt_vocab_size: int) -> Seq2SeqModel:
    """Make the model that the settings describe, with initial values."""
    drops = {
        "dropout": config.dropout,
        "embed_dropout": config.embed_dropout,
        "word_dropout": config.word_dropout,
    }
    size = config.hidden_size // 2 if config.bidirectional else config.hidden_size
    encoder = LSTMEncoder(
        src_vocab_size, config.embed_size, size, config.num_layers, bidirectional=config.bidirectional, **drops
    )
    decoder = LSTMDecoder(
        tgt_vocab_size,
        config.embed_size,
        config.hidden_size,
        config.num_layers,
        attention=config.attention,
        memory_size=encoder.output_size,
        deep_attention=config.deep_attention,
        input_feeding=config.input_feeding,
        context_size=0 if config.context == "none" else encoder.output_size,
        tied=config.tied,
        **drops,
    )
    return Seq2SeqModel(
        encoder, decoder, context=config.context, share_embeddings=config.share_embeddings, bridge=config.bidirectional
    )
