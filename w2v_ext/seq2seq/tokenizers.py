"""From a line to tokens and back: whitespace, words, characters, Chinese words, and subwords trained on the fly."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from ..files import FormatError, parse_json
from ..sources import import_jieba
from ..vocab import SPECIALS

TokenizerName = Literal["whitespace", "word", "char", "jieba", "bpe", "unigram"]
TOKENIZERS: tuple[str, ...] = TokenizerName.__args__
SUBWORDS = ("bpe", "unigram")

_SPACE = "▁"
_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_NO_SPACE_BEFORE = set(".,!?;:%)]}»”’…、。，！？；：）】》")
_NO_SPACE_AFTER = set("([{«“（【《¿¡")


def _import_tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ImportError(
            "tokenizer='bpe' and 'unigram' need the package tokenizers: pip install 'w2v_ext[seq2seq]'"
        ) from None
    return tokenizers


def check_tokenizer(name: str, argument: str = "tokenizer") -> None:
    """Raise ValueError for an unknown name, ImportError naming the extra for a package that is missing."""
    if name not in TOKENIZERS:
        raise ValueError(f"{argument}: expected one of {', '.join(TOKENIZERS)}, got {name!r}")
    if name in SUBWORDS:
        _import_tokenizers()
    elif name == "jieba":
        import_jieba()


# The models of the package tokenizers in its JSON, and the parts that `train_tokenizer` leaves empty there.
_MODELS = {"bpe": "BPE", "unigram": "Unigram"}
_EMPTY = ("truncation", "padding", "normalizer", "post_processor", "decoder")
_EMPTY_OF_MODEL = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
_CUTS = ("Metaspace", "Punctuation")


def check_subwords(parts: Any, name: str) -> None:
    """ValueError unless the JSON of a tokenizer has the shape of what `train_tokenizer` makes.

    The package tokenizers believes what it reads: an id of 2**31, or a padding to 2**31 tokens, makes it ask for 8 GiB
    and more, which ends the process where they are not there; other parts make it panic.
    """
    model = parts.get("model") if isinstance(parts, dict) else None
    if not isinstance(model, dict):
        raise ValueError(f"subwords: expected an object with a model, got {parts!r:.80}")
    if model.get("type") != _MODELS[name]:
        raise ValueError(f"subwords: model: type: expected {_MODELS[name]} with {name}, got {model.get('type')!r:.80}")
    for place, part, keys in (("", parts, _EMPTY), ("model: ", model, _EMPTY_OF_MODEL)):
        for key in keys:
            if part.get(key) not in (None, ""):
                raise ValueError(f"subwords: {place}{key}: expected null, got {part[key]!r:.80}")
    cut = parts.get("pre_tokenizer")
    cuts = cut.get("pretokenizers") if isinstance(cut, dict) else None
    kinds = [each.get("type") if isinstance(each, dict) else each for each in cuts] if isinstance(cuts, list) else cut
    if kinds != list(_CUTS):
        raise ValueError(f"subwords: pre_tokenizer: expected {' and '.join(_CUTS)}, got {kinds!r:.80}")
    vocab = model.get("vocab")
    if not isinstance(vocab, dict if name == "bpe" else list) or not vocab:
        raise ValueError(f"subwords: model: vocab: expected subwords and their numbers, got {vocab!r:.80}")
    if name == "bpe":
        _check_ids("model: vocab", vocab.items(), len(vocab))
        if len(set(vocab.values())) < len(vocab):
            raise ValueError("subwords: model: vocab: expected each id once")
        unknown = model.get("unk_token")
        if unknown != SPECIALS[3] or unknown not in vocab:
            raise ValueError(
                f"subwords: model: unk_token: expected {SPECIALS[3]}, and in the vocab, got {unknown!r:.80}, "
                f"{'' if SPECIALS[3] in vocab else 'not '}there"
            )
    else:
        _check_ids("model: unk_id", [(SPECIALS[3], model.get("unk_id"))], len(vocab))
    added = parts.get("added_tokens")
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise ValueError(f"subwords: added_tokens: expected a list of objects, got {added!r:.80}")
    _check_ids("added_tokens", ((token.get("content"), token.get("id")) for token in added), len(vocab))


def _check_ids(place: str, ids: Iterable[tuple[object, object]], count: int) -> None:
    for word, number in ids:
        if type(number) is not int or not 0 <= number < count:
            raise ValueError(
                f"subwords: {place}: {word!r:.80}: expected an id from 0 to {count - 1}, for {count} subwords, got "
                f"{number!r:.80}"
            )


class Tokenizer:
    """Cuts lines into tokens and puts them together again.

    - `whitespace`: at white space.
    - `word`: words as Unicode knows letters and digits, and every other sign; put together by the usual rules of
      punctuation, so that the way back is only nearly exact.
    - `char`: characters; a space is the token ▁.
    - `jieba`: Chinese words, by the package jieba; put together without spaces but between Latin words.
    - `bpe`, `unigram`: subwords (Sennrich et al. 2016; Kudo 2018) by the package tokenizers; ▁ begins a word.
      `train_tokenizer` makes them.

    Lines are brought to Unicode's NFC, white space to single spaces.

    Args:
        name: one of the above.
        lowercase: lower-case the line before it is cut.
        subwords: the trained `tokenizers.Tokenizer` of `bpe` and `unigram`.
    """

    def __init__(self, name: TokenizerName, *, lowercase: bool = False, subwords: Any = None) -> None:
        check_tokenizer(name)
        if (name in SUBWORDS) != (subwords is not None):
            raise ValueError(
                f"subwords: expected a trained tokenizer with bpe and unigram only, got {subwords} with {name}"
            )
        self.name, self.lowercase, self._subwords = name, lowercase, subwords

    def normalize(self, line: str) -> str:
        """The line as it is before it is cut."""
        line = unicodedata.normalize("NFC", " ".join(line.split()))
        return line.lower() if self.lowercase else line

    def encode(self, line: str) -> list[str]:
        """Tokens of one line; none for an empty one."""
        return self.encode_all([line])[0]

    def encode_all(self, lines: Iterable[str]) -> list[list[str]]:
        """Tokens of many lines."""
        lines = [self.normalize(line) for line in lines]
        if self.name == "whitespace":
            return [line.split() for line in lines]
        if self.name == "word":
            return [_WORD.findall(line) for line in lines]
        if self.name == "char":
            return [list(line.replace(" ", _SPACE)) for line in lines]
        if self.name == "jieba":
            cut = import_jieba().cut
            return [[word for word in cut(line) if not word.isspace()] for line in lines]
        unknown = SPECIALS[3]
        return [
            # What the subwords do not know stays what it was, so that it can be copied into a translation.
            [
                line[slice(*place)] if token == unknown else token
                for token, place in zip(encoding.tokens, encoding.offsets, strict=True)
            ]
            for line, encoding in zip(lines, self._subwords.encode_batch(lines), strict=True)
        ]

    def decode(self, tokens: Sequence[str]) -> str:
        """The line that these tokens are of."""
        if self.name == "whitespace":
            return " ".join(tokens)
        if self.name in ("word", "jieba"):
            return _join(tokens, chinese=self.name == "jieba")
        return "".join(tokens).replace(_SPACE, " ").strip()

    def to_json(self) -> str:
        """The tokenizer as text, which `from_json` reads."""
        subwords = None if self._subwords is None else json.loads(self._subwords.to_str())
        return json.dumps({"name": self.name, "lowercase": self.lowercase, "subwords": subwords}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, path: str | Path) -> Tokenizer:
        """Read what `to_json` wrote. FormatError naming `path` if that is not what it is."""
        try:
            parts = parse_json(text)
            name, lowercase, subwords = parts["name"], parts["lowercase"], parts["subwords"]
        except (ValueError, TypeError, KeyError) as error:
            raise FormatError(f"{path}: not a tokenizer of this library: {error!r}") from error
        if subwords is not None:
            module = _import_tokenizers()
            if name in SUBWORDS:  # another one with subwords is refused below
                try:
                    check_subwords(subwords, name)
                except ValueError as error:
                    raise FormatError(f"{path}: {error}") from error
            try:
                subwords = module.Tokenizer.from_str(json.dumps(subwords))
            except Exception as error:  # the package raises bare exceptions
                raise FormatError(f"{path}: the subwords are damaged: {error}") from error
        try:
            return cls(name, lowercase=bool(lowercase), subwords=subwords)
        except ValueError as error:
            raise FormatError(f"{path}: {error}") from error


def train_tokenizer(
    name: TokenizerName, lines: Iterable[str], *, lowercase: bool = False, subword_vocab: int = 8000
) -> Tokenizer:
    """Make a tokenizer; train it on the lines where it is one of subwords.

    Args:
        name: see `Tokenizer`.
        lines: of the training text.
        lowercase: lower-case all text.
        subword_vocab: subwords to find, at most.

    Raises:
        ValueError: an unknown name, or no text.
    """
    check_tokenizer(name)
    if name not in SUBWORDS:
        return Tokenizer(name, lowercase=lowercase)
    if subword_vocab < 2:
        raise ValueError(f"subword_vocab: expected an integer >= 2, got {subword_vocab}")
    normalize = Tokenizer("whitespace", lowercase=lowercase).normalize
    text = [line for line in map(normalize, lines) if line]
    if not text:
        raise ValueError("lines: expected text to train the subwords on, got only empty lines")
    tk = _import_tokenizers()
    unknown = SPECIALS[3]
    if name == "bpe":
        model = tk.models.BPE(unk_token=unknown)
        trainer = tk.trainers.BpeTrainer(vocab_size=subword_vocab, special_tokens=[unknown], show_progress=False)
    else:
        model = tk.models.Unigram()
        trainer = tk.trainers.UnigramTrainer(
            vocab_size=subword_vocab, special_tokens=[unknown], unk_token=unknown, show_progress=False
        )
    subwords = tk.Tokenizer(model)
    subwords.pre_tokenizer = tk.pre_tokenizers.Sequence(
        [tk.pre_tokenizers.Metaspace(replacement=_SPACE), tk.pre_tokenizers.Punctuation("isolated")]
    )
    subwords.train_from_iterator(text, trainer)
    return Tokenizer(name, lowercase=lowercase, subwords=subwords)


def _join(tokens: Sequence[str], chinese: bool) -> str:
    text, is_open = "", {'"': False, "'": False}
    glue = True  # whether the next token follows without a space
    for token in tokens:
        if token in is_open:  # straight quotes: the first opens, the second closes
            closes = is_open[token]
            text += token if closes or glue or chinese else f" {token}"
            is_open[token], glue = not closes, not closes
            continue
        if chinese and text:
            glue = glue or not (_is_latin(text[-1]) and _is_latin(token[:1]))
        text += token if glue or token in _NO_SPACE_BEFORE else f" {token}"
        glue = token in _NO_SPACE_AFTER
    return text


def _is_latin(character: str) -> bool:
    return character.isascii() and character.isalnum()
