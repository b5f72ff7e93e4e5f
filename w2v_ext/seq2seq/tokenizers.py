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
