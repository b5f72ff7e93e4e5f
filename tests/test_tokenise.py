"""The C++ tokenisers against short Python ones: the same words and ids for any text, block and thread."""

import lzma
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from w2v_ext import _text
from w2v_ext.corpus import CorpusOptions, prepare_corpus

DATA = Path(__file__).parents[2] / "shared" / "data"
CJK_NAMES = ("CJK UNIFIED IDEOGRAPH", "CJK COMPATIBILITY IDEOGRAPH", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA")
CJK_NAMES += ("HALFWIDTH KATAKANA", "HANGUL SYLLABLE", "HENTAIGANA")
SAME_UNICODE = _text.UNICODE_VERSION == unicodedata.unidata_version


def is_mark(c):
    return unicodedata.category(c)[0] == "M"


def is_cjk(c):
    return unicodedata.name(c, "").startswith(CJK_NAMES) and unicodedata.category(c) in ("Lo", "Lm", "Nl")


def is_word(c):
    return unicodedata.category(c)[0] in "LM" or unicodedata.category(c) == "Nd" or c == "_" or is_cjk(c)


def reference_tokens(line, tokenizer):
    """The tokens of one line, one character at a time."""
    if tokenizer == "whitespace":
        return line.split()
    tokens, word = [], ""

    def joins(c):
        return is_word(c) and not (tokenizer == "char" and is_cjk(c))

    i = 0
    while i < len(line):
        c = line[i]
        i += 1
        if joins(c) or (c in "'’" and word and i < len(line) and joins(line[i])):
            word += c
            continue
        tokens.append(word)
        word = ""
        if tokenizer == "char" and is_cjk(c):
            while i < len(line) and is_mark(line[i]):
                c += line[i]
                i += 1
            tokens.append(c)
    return [token for token in [*tokens, word] if token]


def reference_lower(text):
    return "".join(map(str.lower, text))  # by character: no final-sigma rule


def encode(data, tmp_path, tokenizer="whitespace", *, min_count=1, max_line=10_000, split=1_000, chunk=None, **kwargs):
    """Run the builder over one source; return (sentences, vocabulary dict, bytes of ids.bin)."""
    builder = _text.Builder(tokenizer=tokenizer, spill_path=str(tmp_path / "spill"), **kwargs)
    builder.begin_source("source")
    for start in range(0, len(data), chunk or max(1, len(data))):
        builder.feed(data[start : start + (chunk or len(data))])
    builder.end_source()
    found = builder.make_vocabulary(min_count, None, [])
    builder.write_ids(str(tmp_path / "ids"), max_line, split)
    ids = (tmp_path / "ids").read_bytes()
    words = np.array([*found["words"], "\n"], dtype=object)[np.frombuffer(ids, "<i4")]  # -1 finds the "\n"
    sentences, begin = [], 0
    for end in np.flatnonzero(words == "\n"):
        sentences.append(words[begin:end].tolist())
        begin = end + 1
    return sentences, found, ids


def expected(text, tokenizer, lowercase=False):
    lines = (reference_lower(text) if lowercase else text).split("\n")
    return [tokens for tokens in (reference_tokens(line, tokenizer) for line in lines) if tokens]


PIECES = ["a", "Bc", "don't", "'", "’", " ", "\n", "\r\n", "\t", "_", "9", "-", ".", "\x00", "\x1c", "\x85", "\xa0"]
PIECES += ["é", "É", "İ", "Σ", "ß", "Ж", "٣", "中", "文", "か", "\u3099", "ー", "한", "\u0301", "\u3000", "\u2028"]
PIECES += ["\u200b", "\ufeff", "\ufffd", "😀", "𐐀", "𠀀", "abcdefghijklmno", "abcdefghijklmnop", "Ⱥ", "。", "々"]
# Where Python has another Unicode than the tables: characters unchanged since 3.2, which are the same in both.
ANY = st.characters(codec="utf-8").filter(
    lambda c: SAME_UNICODE or unicodedata.category(c) == unicodedata.ucd_3_2_0.category(c)
)
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), ANY), max_size=60).map("".join)
TOKENIZERS = ["whitespace", "word", "char"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


def test_tables_by_hand(work):
    text = "Don't stop_me 3 times: rock'n'roll, 'quoted' l’été — 你好, ab中文cd カタカナ.\n"
    assert encode(text.encode(), work, "word")[0] == [
        ["Don't", "stop_me", "3", "times", "rock'n'roll", "quoted", "l’été", "你好", "ab中文cd", "カタカナ"]
    ]
    assert encode("你好, ab中'文cd か\u3099ハ 한국".encode(), work, "char")[0] == [
        ["你", "好", "ab", "中", "文", "cd", "か\u3099", "ハ", "한", "국"]
    ]
    assert encode(text.encode(), work, "whitespace", lowercase=True)[0] == [text.lower().split()]


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_tokenisers_equal_python(work, tokenizer, lowercase):
    @settings(max_examples=150, deadline=None)
    @given(TEXT, st.sampled_from([7, 8, 11, 64, 1 << 20]), st.integers(1, 3))
    @example("\ufeff", 7, 1)
    @example("ab'", 7, 1)
    @example("abcdefgh’ijklmnop’’q''r", 7, 1)
    @example("か\u3099" * 9, 7, 2)
    def check(text, block, threads):
        data = text.encode()
        got, found, _ = encode(data, work, tokenizer, lowercase=lowercase, block_bytes=block, threads=threads)
        want = expected(text.removeprefix("\ufeff"), tokenizer, lowercase)
        assert got == want
        counts = Counter(token for line in want for token in line)
        assert dict(zip(found["words"], found["counts"].tolist(), strict=True)) == counts
        assert found["words"] == sorted(counts, key=lambda w: (-counts[w], w.encode()))
        assert found["raw_words"] == counts.total() and found["distinct_words"] == len(counts)

    check()


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_invalid_bytes_are_replaced_as_python_does(work, tokenizer):
    pieces = [
        b"\xff",
        b"\xc3",
        b"\xe2\x82",
        b"\xf0\x9f\x98",
        b"\xed\xa0\x80",
        b"\x80",
        b"\xc0\xaf",
        b"\xf4\x90",
        b"\xe0",
    ]
    pieces += [b"a", b" ", b"\n", "é中😀".encode(), b"\xe3\x80\x80", b"'"]

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.one_of(st.sampled_from(pieces), st.binary(max_size=4))).map(b"".join), st.sampled_from([7, 50]))
    def check(data, block):
        got, found, _ = encode(data, work, tokenizer, replace_errors=True, block_bytes=block, threads=2)
        text = data.decode("utf-8", "replace")
        assert got == expected(text.removeprefix("\ufeff"), tokenizer)
        assert found["replacements"] == text.count("\ufffd") - data.count("\ufffd".encode())
        try:
            data.decode()
        except UnicodeDecodeError as error:
            with pytest.raises(_text.TextError) as caught:
                encode(data, work, tokenizer, block_bytes=block, threads=2)
            assert caught.value.args == ("utf8", "source", error.start, data[error.start])

    check()


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_overlong_tokens_do_not_depend_on_blocks(work, tokenizer):
    @settings(max_examples=200, deadline=None)
    @given(TEXT, st.sampled_from([7, 16, 41, 1 << 20]), st.integers(16, 40))
    @example("a" * 41 + "'" + "b" * 41 + "''c", 7, 20)
    @example("a" * 40 + "。" + "b", 41, 20)
    @example("か" + "\u3099" * 40 + "ab か", 7, 20)
    def check(text, block, limit):
        text = text.replace("\ufeff", "")
        kwargs = dict(block_bytes=block, threads=2, max_token_bytes=limit)
        lines = [reference_tokens(line, tokenizer) for line in text.split("\n")]
        kept = [[token for token in line if len(token.encode()) <= limit] for line in lines]
        got, found, _ = encode(text.encode(), work, tokenizer, replace_errors=True, **kwargs)
        assert got == [line for line in kept if line]
        dropped = sum(map(len, lines)) - sum(map(len, kept))
        assert found["dropped_tokens"] == dropped
        if dropped:
            with pytest.raises(_text.TextError) as caught:
                encode(text.encode(), work, tokenizer, **kwargs)
            first = next(token for line in lines for token in line if len(token.encode()) > limit)
            kind, _, offset, _ = caught.value.args
            assert kind == "token" and text.encode()[offset:].startswith(first.encode())

    check()


def every_character():
    """All that Unicode names, and of the stretches that it does not the ends and every 16th."""
    kinds = [unicodedata.category(chr(c)) for c in range(0x110000)]
    ends = {c for c in range(1, 0x110000) if kinds[c - 1] != kinds[c] for c in (c - 1, c)}
    return [
        chr(c)
        for c in range(0x110000)
        if kinds[c] != "Cs" and (kinds[c] not in ("Cn", "Co") or c % 16 == 0 or c in ends)
    ]


def test_every_character_is_lowered_as_python_does(work):
    characters = [c for c in every_character() if not c.isspace()]
    got = encode("\n".join(characters).encode(), work, lowercase=True, threads=2)[0]
    wrong = [c for c, [lowered] in zip(characters, got, strict=True) if lowered != c.lower()]
    assert not wrong if SAME_UNICODE else len(wrong) < 100  # those that another Unicode version adds


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_every_character_is_classed_as_python_does(work, tokenizer):
    characters = [c for c in every_character() if c != "\n"]
    text = "\n".join(f"a{c}b" for c in characters)
    got = encode(text.encode(), work, tokenizer, threads=2)[0]
    wrong = [c for c, line in zip(characters, got, strict=True) if line != reference_tokens(f"a{c}b", tokenizer)]
    assert not wrong if SAME_UNICODE else len(wrong) < 30_000  # a version may add many ideographs


def test_ids_are_the_same_for_all_threads_blocks_and_feeds(work):
    rng = np.random.default_rng(1)
    words = [f"w{i}é" if i % 7 == 0 else f"w{i}" * (1 + i % 4) for i in range(70_000)]  # ids past 16 bits
    picks = words + [words[i] for i in rng.zipf(1.3, 60_000) if i < len(words)]
    text = " ".join(w + ("\n" if i % 11 == 0 else "") for i, w in enumerate(picks)).encode()
    results = [
        encode(text, work, threads=threads, block_bytes=block, chunk=chunk, spill_after=spill)[2]
        for threads, block, chunk, spill in [
            (1, 1 << 20, None, 1 << 30),
            (2, 1 << 20, None, 0),
            (2, 1000, 777, 1 << 30),
            (3, 4097, 100_000, 50_000),
            (3, 64, None, 1 << 30),
        ]
    ]
    assert all(ids == results[0] for ids in results)
    assert not (work / "spill").exists()


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\n\n \n"])
def test_lines_are_sentences(work, ends):
    assert encode(ends.join(["a b", "c", "d e f"]).encode(), work)[0] == [["a", "b"], ["c"], ["d", "e", "f"]]


def test_unbroken_text_is_split_and_only_that(work):
    def lengths(*lines, **kwargs):
        text = "\n".join(" ".join(["w"] * n) for n in lines)
        return [len(s) for s in encode(text.encode(), work, max_line=20, split=6, **kwargs)[0]]

    assert lengths(20, 5) == [20, 5]
    assert lengths(21, 5) == [6, 6, 6, 3, 5]
    assert lengths(24, 18, 0, 42, block_bytes=7) == [6, 6, 6, 6, 18, 6, 6, 6, 6, 6, 6, 6]
    assert lengths(1000, threads=2, block_bytes=64) == [6] * 166 + [4]
    # out-of-vocabulary tokens count neither for the limit nor for the pieces, and leave no empty sentence
    text = " ".join(["w", "rare%d"] * 21) % tuple(range(21)) + "\nonce\nw"
    assert [len(s) for s in encode(text.encode(), work, min_count=2, max_line=20, split=6)[0]] == [6, 6, 6, 3, 1]


def test_default_split(tmp_path):
    (tmp_path / "t").write_text("a b " * 5_001)
    with prepare_corpus(tmp_path / "t", cache_dir=tmp_path / "cache") as corpus:
        assert [len(s) for s in corpus.sentences()] == [1000] * 10 + [2]
    (tmp_path / "t").write_text("a b " * 5_000)
    with prepare_corpus(tmp_path / "t", cache_dir=tmp_path / "cache") as corpus:
        assert [len(s) for s in corpus.sentences()] == [10_000]


def test_jieba(tmp_path):
    pytest.importorskip("jieba", reason="jieba is not installed (extra: chinese)")
    (tmp_path / "t").write_text("我来到北京清华大学\nA test\n" * 5)
    corpus = prepare_corpus(tmp_path / "t", CorpusOptions(tokenizer="jieba", lowercase=True), cache_dir=tmp_path / "c")
    assert corpus.vocab.decode(next(corpus.sentences())) == ["我", "来到", "北京", "清华大学"]
    assert "test" in corpus.vocab and corpus.num_sentences == 10


class FakeJieba:
    @staticmethod
    def cut(line):
        return [line[i : i + 2] for i in range(0, len(line), 2)]


def test_jieba_path_with_a_stand_in(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", FakeJieba)
    (tmp_path / "t").write_bytes("\ufeff".encode() + "中文字\n你好\n".encode() * 3 + b"\xff\n")
    options = CorpusOptions(tokenizer="jieba", min_count=1, errors="replace")
    corpus = prepare_corpus(tmp_path / "t", options, cache_dir=tmp_path / "c")
    assert corpus.meta["replacements"] == 1
    assert [corpus.vocab.decode(s) for s in corpus.sentences()][1:3] == [["你好"], ["中文", "字"]]


def test_real_text_equals_python(tmp_path):
    source = DATA / "cmn-eng.tsv.xz"
    if not source.exists():
        pytest.skip(f"needs {source}, which is not here")
    text = lzma.decompress(source.read_bytes()).decode("utf-8-sig")
    for tokenizer in TOKENIZERS:
        options = CorpusOptions(tokenizer=tokenizer, lowercase=True, min_count=1)
        corpus = prepare_corpus(source, options, cache_dir=tmp_path, threads=2)
        assert [corpus.vocab.decode(s) for s in corpus.sentences()] == expected(text, tokenizer, lowercase=True)
