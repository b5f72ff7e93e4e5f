"""Lines, tokenizers, vocabularies and batches of the translation data."""

import gzip
import json
import lzma
import random

import numpy as np
import pytest
import torch

from w2v_ext.files import FormatError
from w2v_ext.seq2seq import Tokenizer, train_tokenizer
from w2v_ext.seq2seq import tokenizers as tokenizers_module
from w2v_ext.seq2seq.data import Sequences, encode_pairs, make_batch, make_batches
from w2v_ext.seq2seq.lines import read_lines, read_parallel, read_tsv, split_pairs, write_split
from w2v_ext.sources import CorpusError
from w2v_ext.vocab import Vocabulary

LINES = ["Ein Hund läuft, schnell!", "Zwei  Katzen\tschlafen.", "Der Mann (alt) sagt: ja?"]


def test_lines_of_every_kind_of_file(tmp_path):
    data = "\ufeffeins\r\nzwei\n\ndrei \u2028 vier\x0b".encode()
    want = ["eins", "zwei", "", "drei \u2028 vier\x0b"]
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "a.gz").write_bytes(gzip.compress(data))
    (tmp_path / "a.xz").write_bytes(lzma.compress(data))
    zstandard = pytest.importorskip("zstandard")
    (tmp_path / "a.zst").write_bytes(zstandard.compress(data))
    for name in ("a", "a.gz", "a.xz", "a.zst"):
        assert list(read_lines(tmp_path / name)) == want, name
    (tmp_path / "b").write_bytes(b"x\n" * 700_000 + b"y\n")  # more than a block
    assert sum(line == "x" for line in read_lines(tmp_path / "b")) == 700_000


def test_lines_that_cannot_be_read(tmp_path):
    (tmp_path / "a").write_bytes(b"fine\nb\xffd\n")
    with pytest.raises(CorpusError, match="a: line 2: not UTF-8: byte 0xff at byte 1 of the line"):
        list(read_lines(tmp_path / "a"))
    (tmp_path / "e").touch()
    with pytest.raises(ValueError, match="e: the file is empty"):
        list(read_lines(tmp_path / "e"))
    with pytest.raises(ValueError, match="expected a file of lines, got a directory"):
        list(read_lines(tmp_path))
    with pytest.raises(FileNotFoundError):
        list(read_lines(tmp_path / "none"))
    (tmp_path / "c.gz").write_bytes(gzip.compress(b"x\n" * 1000)[:-20])
    with pytest.raises(CorpusError, match="damaged or incomplete"):
        list(read_lines(tmp_path / "c.gz"))


def test_parallel_files_of_different_lengths(tmp_path):
    (tmp_path / "s").write_text("a\nb\nc\n")
    (tmp_path / "t").write_text("A\nB\n")
    with pytest.raises(ValueError, match=r"expected as many lines in both files, got 3 in .*s and 2 in .*t$"):
        read_parallel(tmp_path / "s", tmp_path / "t")
    (tmp_path / "t").write_text("A\nB\nC")
    assert read_parallel(tmp_path / "s", tmp_path / "t") == (["a", "b", "c"], ["A", "B", "C"])


def test_tsv(tmp_path):
    (tmp_path / "p.tsv").write_bytes("\ufeffHi.\t嗨。\tCC-BY\nRun.\t跑\n\n".encode())
    assert read_tsv(tmp_path / "p.tsv") == (["Hi.", "Run.", ""], ["嗨。", "跑", ""])
    assert read_tsv(tmp_path / "p.tsv", (2, 1))[0] == ["嗨。", "跑", ""]
    with pytest.raises(ValueError, match=r"p.tsv: line 2: expected at least 3 columns, got 2: 'Run.\\t跑'"):
        read_tsv(tmp_path / "p.tsv", (1, 3))
    for columns in ((0, 1), (1, 1), (1,)):
        with pytest.raises(ValueError, match="columns: expected two different places >= 1"):
            read_tsv(tmp_path / "p.tsv", columns)


def test_split_keeps_sources_together_and_is_fixed(tmp_path):
    src = [f"s{i % 30 if i < 60 else i}" for i in range(100)]
    tgt = [f"t{i}" for i in range(100)]
    train, valid, test = split_pairs(src, tgt, 11, 13)
    assert (len(train), len(valid), len(test)) == (76, 11, 13)
    assert sorted(train + valid + test) == list(range(100))
    sides = [{src[i] for i in part} for part in (train, valid, test)]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    shuffled = list(range(100))
    random.Random(1).shuffle(shuffled)
    again = split_pairs([src[i] for i in shuffled], [tgt[i] for i in shuffled], 11, 13)
    assert {src[shuffled[i]] for i in again[2]} == sides[2]
    assert split_pairs(["a", "b", "c"], ["A", "B", "C"], 1, 1) == ([0], [1], [2])  # by SHA-256, for ever
    with pytest.raises(ValueError, match="that leave some of 100 pairs, got 50 and 50"):
        split_pairs(src, tgt, 50, 50)
    (tmp_path / "p.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in zip(src, tgt, strict=True)) + "x\t\n\n")
    counts = write_split(tmp_path / "p.tsv", tmp_path / "out", 11, 13)
    assert counts == {"train": 76, "valid": 11, "test": 13, "empty": 2}
    assert (tmp_path / "out" / "test.tgt").read_text().split() == [tgt[i] for i in test]


@pytest.mark.parametrize("name", ["whitespace", "word", "char", "bpe", "unigram"])
def test_tokenizers_there_and_back(name):
    if name in ("bpe", "unigram"):
        pytest.importorskip("tokenizers", reason="the package tokenizers is not installed (extra: seq2seq)")
    tokenizer = train_tokenizer(name, LINES * 20, subword_vocab=80)
    again = Tokenizer.from_json(tokenizer.to_json(), "x.json")
    for line, tokens in zip(LINES, tokenizer.encode_all(LINES), strict=True):
        assert tokenizer.decode(tokens) == " ".join(line.split())
        assert again.encode(line) == tokens == tokenizer.encode(line)
        assert all(tokens)
    assert tokenizer.encode("") == tokenizer.encode(" \t ") == []
    assert tokenizer.decode([]) == ""
    lower = train_tokenizer(name, LINES * 20, subword_vocab=80, lowercase=True)
    assert lower.decode(lower.encode(LINES[0])) == LINES[0].lower()
    assert Tokenizer.from_json(lower.to_json(), "x.json").lowercase


def test_words():
    tokenizer = Tokenizer("word")
    line = 'She said: "Isn\'t it (really) a dog-house?" Yes…'
    tokens = tokenizer.encode(line)
    assert tokens[3:7] == ['"', "Isn't", "it", "("] and "dog-house" in tokens
    assert tokenizer.decode(tokens) == line
    assert tokenizer.encode("e\u0301te\u0301") == ["été"]  # NFC


def test_chinese():
    pytest.importorskip("jieba", reason="jieba is not installed (extra: chinese)")
    tokenizer = Tokenizer("jieba")
    line = "汤姆说Hello World，对吧？"
    tokens = tokenizer.encode(line)
    assert "汤姆" in tokens and tokenizer.decode(tokens) == line


@pytest.mark.parametrize("name", ["bpe", "unigram"])
def test_unknown_characters_stay_what_they_are(name):
    pytest.importorskip("tokenizers", reason="the package tokenizers is not installed (extra: seq2seq)")
    tokenizer = train_tokenizer(name, LINES * 20, subword_vocab=80)
    tokens = tokenizer.encode("Ein 汉 Hund")
    assert "汉" in tokens and "<UNK>" not in tokens
    assert tokenizer.decode(tokens) == "Ein 汉 Hund"


def test_bad_tokenizers(monkeypatch, tmp_path):
    with pytest.raises(
        ValueError, match="tokenizer: expected one of whitespace, word, char, jieba, bpe, unigram, got 'x'"
    ):
        train_tokenizer("x", LINES)
    with pytest.raises(ValueError, match="lines: expected text to train the subwords on"):
        train_tokenizer("bpe", ["", " "])
    with pytest.raises(ValueError, match="subword_vocab: expected an integer >= 2, got 1"):
        train_tokenizer("bpe", LINES, subword_vocab=1)
    with pytest.raises(ValueError, match="subwords: expected a trained tokenizer with bpe and unigram only"):
        Tokenizer("bpe")
    for text in ("", "[]", "{}", '{"name": "bpe"}', '{"name": "x", "lowercase": false, "subwords": null}'):
        with pytest.raises(FormatError, match="t.json"):
            Tokenizer.from_json(text, "t.json")
    with pytest.raises(FormatError, match="t.json: subwords: expected an object with a model, got {'a': 1}"):
        Tokenizer.from_json('{"name": "bpe", "lowercase": false, "subwords": {"a": 1}}', "t.json")

    def missing():
        raise ImportError("needs the package tokenizers: pip install 'w2v_ext[seq2seq]'")

    monkeypatch.setattr(tokenizers_module, "_import_tokenizers", missing)
    with pytest.raises(ImportError, match=r"pip install 'w2v_ext\[seq2seq\]'"):
        train_tokenizer("unigram", LINES)


# What the package tokenizers would believe: with the first it asks for 8 GiB, and ends the process without them.
@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("bpe", "model vocab e", 2**31, r"model: vocab: 'e': expected an id from 0 to \d+, .* got 2147483648$"),
        ("bpe", "model vocab e", -1, "model: vocab: 'e': expected an id from 0 to .* got -1$"),
        ("bpe", "model vocab e", True, "model: vocab: 'e': expected an id from 0 to .* got True$"),
        ("bpe", "model vocab e", 0, "model: vocab: expected each id once"),
        ("bpe", "model vocab", [], r"model: vocab: expected subwords and their numbers, got \[\]"),
        ("bpe", "model vocab", {}, "model: vocab: expected subwords and their numbers, got {}"),
        ("bpe", "model type", "WordLevel", "model: type: expected BPE with bpe, got 'WordLevel'"),
        ("bpe", "model unk_token", "e", "model: unk_token: expected <UNK>, and in the vocab, got 'e', there"),
        ("bpe", "model vocab", {"a": 0}, "model: unk_token: expected <UNK>, and in the vocab, got '<UNK>', not there"),
        ("bpe", "model continuing_subword_prefix", "###", "model: continuing_subword_prefix: expected null, got '###'"),
        ("bpe", "model merges", [["e", "none"]], "the subwords are damaged: .*none"),
        ("bpe", "model", None, "expected an object with a model, got {"),
        ("bpe", "padding", {"strategy": {"Fixed": 2**31}}, "padding: expected null, got {'strategy'"),
        ("bpe", "truncation", {"max_length": 4, "stride": 7}, "truncation: expected null, got {'max_length'"),
        ("bpe", "normalizer", {"type": "Replace"}, "normalizer: expected null, got {'type'"),
        ("bpe", "pre_tokenizer", None, "pre_tokenizer: expected Metaspace and Punctuation, got None"),
        ("bpe", "pre_tokenizer pretokenizers", [{"type": "Split"}, 3], r"pre_tokenizer: .*, got \['Split', 3\]"),
        ("bpe", "added_tokens", [3], r"added_tokens: expected a list of objects, got \[3\]"),
        ("bpe", "added_tokens", [{"id": 2**31, "content": "x"}], "added_tokens: 'x': expected an id .* 2147483648$"),
        ("unigram", "model unk_id", 2**40, "model: unk_id: '<UNK>': expected an id from 0 to .* got 1099511627776$"),
        ("unigram", "model unk_id", None, "model: unk_id: '<UNK>': expected an id from 0 to .* got None$"),
        ("unigram", "model vocab", {"a": 0}, "model: vocab: expected subwords and their numbers, got {'a': 0}"),
    ],
)
def test_subwords_that_no_one_trained(name, place, value, message):
    pytest.importorskip("tokenizers", reason="the package tokenizers is not installed (extra: seq2seq)")
    parts = json.loads(train_tokenizer(name, LINES * 20, subword_vocab=80).to_json())
    inner = parts["subwords"]
    *path, last = place.split()
    for key in path:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(FormatError, match=f"^t.json: (subwords: )?{message}"):
        Tokenizer.from_json(json.dumps(parts), "t.json")


@pytest.mark.parametrize("package", ["tokenizers", "jieba"])
def test_missing_packages_name_the_extra(monkeypatch, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    extra = {"tokenizers": "seq2seq", "jieba": "chinese"}[package]
    with pytest.raises(ImportError, match=rf"w2v_ext\[{extra}\]"):
        Tokenizer("jieba" if package == "jieba" else "bpe")


def vocab(*words):
    return Vocabulary.from_counts({word: 9 - i for i, word in enumerate(words)}, specials=True)


def test_pairs_are_encoded_and_counted():
    src = [["a", "b"], [], ["a"] * 4, ["b", "x"], ["a"]]
    tgt = [["A"], ["A"], ["A"], ["B", "A", "Y"], []]
    pairs = encode_pairs(src, tgt, vocab("a", "b"), vocab("A", "B"), max_len=3)
    assert [pairs.src[i].tolist() for i in range(len(pairs))] == [[4, 5, 2], [5, 3, 2]]
    assert [pairs.tgt[i].tolist() for i in range(len(pairs))] == [[4], [5, 4, 3]]
    assert pairs.rows.tolist() == [0, 3] and pairs.unknown == (1 / 6, 1 / 4)
    assert str(pairs.skipped) == "2 with an empty side (first: line 2); 1 too long (first: line 3)"
    with pytest.raises(
        ValueError, match=r"text: expected at least one pair to use, got none: 2 with an empty side [^;]*$"
    ):
        encode_pairs([[], []], [["A"], ["A"]], vocab("a"), vocab("A"), name="text")
    with pytest.raises(ValueError, match="got none: 1 too long .first: line 1.; max_len is 1 tokens"):
        encode_pairs([["a"] * 2], [["A"]], vocab("a"), vocab("A"), max_len=1)
    with pytest.raises(ValueError, match="there are no lines"):
        encode_pairs([], [], vocab("a"), vocab("A"))


def test_a_batch_of_tensors():
    pairs = encode_pairs([["a", "b"], ["a"]], [["A"], ["B", "A", "A"]], vocab("a", "b"), vocab("A", "B"))
    batch = make_batch(pairs, [0, 1])
    assert batch.src.tolist() == [[4, 5, 2], [4, 2, 0]] and batch.src_lengths.tolist() == [3, 2]
    assert batch.tgt_in.tolist() == [[1, 4, 0, 0], [1, 5, 4, 4]]
    assert batch.tgt_out.tolist() == [[4, 2, 0, 0], [5, 4, 4, 2]] and batch.num_tokens == 6
    assert batch.src.dtype == torch.int64 and torch.equal(batch.to("cpu").tgt_in, batch.tgt_in)


@pytest.mark.parametrize("seed", [None, (1, 2)])
@pytest.mark.parametrize("budget", [1, 40, 1000, 10**6])
def test_batches_hold_every_pair_once_within_the_budget(seed, budget):
    rng = np.random.default_rng(0)
    src, tgt = rng.integers(1, 50, 500), rng.integers(1, 50, 500)
    batches = make_batches(src, tgt, budget, seed)
    assert sorted(np.concatenate(batches)) == list(range(500))
    longest = np.maximum(src, tgt)
    assert all(len(rows) == 1 or len(rows) * longest[rows].max() <= budget for rows in batches)
    again = make_batches(src, tgt, budget, seed)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    if budget == 1000:
        padded = sum(len(rows) * longest[rows].max() for rows in batches)
        assert padded < 1.35 * longest.sum() and sum(len(rows) % 8 == 0 for rows in batches if len(rows) > 8) > 5
        if seed:
            other = make_batches(src, tgt, budget, (1, 3))
            assert {tuple(sorted(b)) for b in other} != {tuple(sorted(b)) for b in batches}
    assert make_batches(src[:0], tgt[:0], budget, seed) == []


def test_bad_batch_tokens_and_sequences():
    with pytest.raises(ValueError, match="batch_tokens: expected an integer >= 1, got 0"):
        make_batches(np.ones(3), np.ones(3), 0)
    empty = Sequences.from_lists([])
    assert len(empty) == 0 and empty.lengths.tolist() == []


def test_real_files(shared_data):
    pytest.importorskip("tokenizers", reason="the package tokenizers is not installed (extra: seq2seq)")
    src, tgt = read_parallel(*(shared_data / "multi30k" / f"val.{side}.gz" for side in ("de", "en")))
    assert len(src) == len(tgt) == 1014
    tokenizer = train_tokenizer("bpe", [*src, *tgt], subword_vocab=1000)
    for lines in (src, tgt):
        tokens = tokenizer.encode_all(lines)
        assert [tokenizer.decode(line) for line in tokens] == [tokenizer.normalize(line) for line in lines]
    english, chinese = read_tsv(shared_data / "cmn-eng.tsv.xz")
    assert english[0] == "Hi." and chinese[0] == "嗨。"  # no byte-order mark
