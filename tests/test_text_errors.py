"""Every error of the text pipeline: its message, and that nothing half-written stays behind."""

import gzip
import lzma
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from w2v_ext import _text
from w2v_ext.corpus import Corpus, CorpusOptions, corpus_from_sequences, prepare_corpus
from w2v_ext.sources import CorpusError

ALL_WORDS = CorpusOptions(min_count=1)


@pytest.fixture
def cache(tmp_path):
    """A cache directory that must hold no file and no unfinished corpus at the end."""
    yield tmp_path / "cache"
    assert [p.name for p in (tmp_path / "cache").rglob("*")] in ([], ["corpora"])


def refused(error, message, sources, options=ALL_WORDS, **kwargs):
    with pytest.raises(error, match=re.escape(message)) as caught:
        prepare_corpus(sources, options, **kwargs)
    return caught.value


def test_missing_file(tmp_path, cache):
    error = refused(FileNotFoundError, "nowhere", tmp_path / "nowhere", cache_dir=cache)
    assert error.filename == str(tmp_path / "nowhere")


def test_no_permission(tmp_path, cache, monkeypatch):
    (tmp_path / "t").write_text("a b")
    (tmp_path / "t").chmod(0)
    if os.access(tmp_path / "t", os.R_OK):  # root may read everything

        def refuse(path, *args, **kwargs):
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr("builtins.open", refuse)
    refused(PermissionError, str(tmp_path / "t"), tmp_path / "t", cache_dir=cache)


@pytest.mark.parametrize("text", [b" \n\t \n", "\ufeff".encode(), "\u3000\u2028".encode(), gzip.compress(b"", mtime=0)])
def test_no_words(tmp_path, cache, text):
    (tmp_path / "good").write_text("a b")
    (tmp_path / "t").write_bytes(text)
    message = f"{tmp_path / 't'}: there are no words in it (tokenizer = whitespace)"
    refused(ValueError, message, [tmp_path / "good", tmp_path / "t"], cache_dir=cache)


def test_no_words_for_the_tokeniser(tmp_path, cache):
    (tmp_path / "t").write_text("... ''' -- \n?!")
    message = f"{tmp_path / 't'}: there are no words in it (tokenizer = word)"
    refused(ValueError, message, tmp_path / "t", CorpusOptions(tokenizer="word"), cache_dir=cache)


def test_empty_file(tmp_path, cache):
    (tmp_path / "t").touch()
    refused(ValueError, f"{tmp_path / 't'}: the file is empty", tmp_path / "t", cache_dir=cache)


def test_directories_without_text(tmp_path, cache):
    (tmp_path / "d" / "sub").mkdir(parents=True)
    message = f"{tmp_path / 'd'}: the directory has no files with text in it"
    refused(ValueError, message, tmp_path / "d", cache_dir=cache)
    (tmp_path / "d" / ".hidden").write_text("a b")
    (tmp_path / "d" / "empty").touch()
    refused(ValueError, message, tmp_path / "d", cache_dir=cache)
    (tmp_path / "d" / "blank").write_text("\n")
    refused(ValueError, f"{tmp_path / 'd'}: there are no words in it", tmp_path / "d", cache_dir=cache)
    refused(ValueError, "sources: expected at least one file, directory or -, got none", [], cache_dir=cache)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_invalid_utf8_names_file_and_offset(tmp_path, cache, pack):
    text = b"word " * 700_000 + "é".encode() + b"\xe9 word\n" + b"\xff" * 1000  # the first of many, in block 4
    (tmp_path / "t").write_bytes(pack(text))
    message = (
        f"{tmp_path / 't'}: not UTF-8: byte 0xe9 at offset 3500002; errors='replace' (--errors replace) puts U+FFFD "
        "in its place and goes on"
    )
    refused(CorpusError, message, tmp_path / "t", cache_dir=cache, threads=3)
    corpus = prepare_corpus(
        tmp_path / "t", CorpusOptions(min_count=1, errors="replace"), cache_dir=tmp_path / "c", threads=3
    )
    assert corpus.meta["replacements"] == 1001 and "é\ufffd" in corpus.vocab and "\ufffd" * 1000 in corpus.vocab


def test_offset_counts_the_byte_order_mark(tmp_path, cache):
    (tmp_path / "t").write_bytes(b"\xef\xbb\xbfa b\xff")
    refused(CorpusError, "byte 0xff at offset 6;", tmp_path / "t", cache_dir=cache)


def test_a_line_of_100_mb_without_a_space(tmp_path, cache):
    path = tmp_path / "t"
    with open(path, "wb") as file:
        file.write(b"some words ")
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b" after\n")
    code = (
        "import sys, resource; from w2v_ext.corpus import CorpusOptions, prepare_corpus\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; before = peak()\n"
        "options = CorpusOptions(min_count=1, errors=sys.argv[2])\n"
        "try:\n    c = prepare_corpus(sys.argv[1], options, cache_dir=sys.argv[3])\n"
        "    print(c.meta['dropped_tokens'], c.vocab.words)\n"
        "except ValueError as e: print(type(e).__name__, e)\n"
        "print((peak() - before) // 1024)"
    )

    def run(errors, cache):
        command = [sys.executable, "-c", code, path, errors, cache]
        *out, grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split("\n")
        assert int(grown) < 60  # MB
        return "\n".join(out)

    assert run("strict", cache) == (
        f"CorpusError {path}: a token of more than 65,536 bytes begins at offset 11; errors='replace' (--errors "
        "replace) drops such tokens and goes on"
    )
    assert run("replace", tmp_path / "c") == "1 ['after', 'some', 'words']"


def test_the_longest_token_allowed(tmp_path, cache):
    (tmp_path / "t").write_text("x" * 65_536 + " y")
    corpus = prepare_corpus(tmp_path / "t", ALL_WORDS, cache_dir=tmp_path / "c")
    assert len(corpus.vocab.words[0]) == 65_536
    (tmp_path / "t").write_text("x" * 65_537 + " y")
    refused(CorpusError, "a token of more than 65,536 bytes begins at offset 0;", tmp_path / "t", cache_dir=cache)


def zstd(data):
    return pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress(data)


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda d: d[: len(d) // 2], lambda d: d[:7], lambda d: d + d[:20]]
)
@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zstd], ids=["gzip", "xz", "zstd"])
def test_truncated_compressed_files(tmp_path, cache, pack, damage):
    data = pack(np.random.default_rng(0).integers(97, 123, 300_000, dtype=np.uint8).reshape(-1, 100).tobytes())
    (tmp_path / "t").write_bytes(damage(data))
    message = f"{tmp_path / 't'}: the compressed data are damaged or incomplete: "
    refused(CorpusError, message, tmp_path / "t", CorpusOptions(errors="replace"), cache_dir=cache)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zstd], ids=["gzip", "xz", "zstd"])
def test_corrupt_compressed_files(tmp_path, cache, pack):
    data = bytearray(pack(b"some words " * 1000 + np.random.default_rng(0).bytes(5000).hex().encode()))
    data[len(data) // 2] ^= 0x55
    (tmp_path / "t").write_bytes(data)
    message = f"{tmp_path / 't'}: the compressed data are damaged or incomplete: "
    refused(CorpusError, message, tmp_path / "t", cache_dir=cache)


def test_vocabularies_that_are_too_small(tmp_path, cache):
    (tmp_path / "t").write_text("a a a b b")
    message = "min_count: no word is seen 4 times; the largest count is 3"
    refused(ValueError, message, tmp_path / "t", CorpusOptions(min_count=4), cache_dir=cache)
    message = "vocabulary: needs at least two words, got only 'a' (min_count = 3, max_vocab = None, distinct words"
    refused(ValueError, message, tmp_path / "t", CorpusOptions(min_count=3), cache_dir=cache)
    with pytest.raises(ValueError, match="needs at least two words, got only 'a'"):
        prepare_corpus(tmp_path / "t", CorpusOptions(min_count=1, max_vocab=1, specials=True), cache_dir=cache)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"tokenizer": "words"}, "tokenizer: expected one of whitespace, word, char, jieba, got 'words'"),
        ({"tokenizer": "items"}, "tokenizer: expected one of whitespace, word, char, jieba, got 'items'"),
        ({"errors": "ignore"}, "errors: expected strict or replace, got 'ignore'"),
        ({"lowercase": "yes"}, "lowercase: expected True or False, got 'yes'"),
        ({"specials": 1}, "specials: expected True or False, got 1"),
        ({"min_count": 0}, "min_count: expected a whole number >= 1, got 0"),
        ({"max_vocab": -1}, "max_vocab: expected a whole number >= 1 or None, got -1"),
        ({"max_line_tokens": 0}, "max_line_tokens: expected a whole number from 1 to 2**31 - 1, got 0"),
        ({"split_tokens": 2.5}, "split_tokens: expected a whole number from 1 to 2**31 - 1, got 2.5"),
        ({"split_tokens": 20_000}, "split_tokens: expected at most max_line_tokens = 10000, got 20000"),
    ],
)
def test_options(option, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        CorpusOptions(**option)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, 5000])
def test_threads(tmp_path, cache, threads):
    message = f"threads: expected a whole number from 1 to 1024, got {threads}"
    refused(ValueError, message, tmp_path, cache_dir=cache, threads=threads)


def test_jieba_missing(tmp_path, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    (tmp_path / "t").write_text("a b")
    message = "tokenizer='jieba' needs the package jieba: pip install 'w2v_ext[chinese]'"
    refused(ImportError, message, tmp_path / "t", CorpusOptions(tokenizer="jieba"), cache_dir=cache)


def test_jieba_invalid_utf8(tmp_path, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", type("jieba", (), {"cut": str.split}))
    (tmp_path / "t").write_bytes(b"a b\n" * 500_000 + b"\xfe")
    options = CorpusOptions(tokenizer="jieba")
    refused(CorpusError, "t: not UTF-8: byte 0xfe at offset 2000000;", tmp_path / "t", options, cache_dir=cache)


@pytest.mark.parametrize("how", ["grows", "is touched"])
def test_source_that_changes_while_it_is_read(tmp_path, cache, how):
    path = tmp_path / "t"
    path.write_text("a b c\n" * 1000)

    def change(done, total):
        if how == "grows":
            with open(path, "a") as file:
                file.write("more")
        else:
            os.utime(path, ns=(5, 5))

    message = f"{path}: the file changed while it was read (it had 6000 bytes)"
    refused(CorpusError, message, path, cache_dir=cache, progress=change)


def test_unwritable_cache(tmp_path):
    (tmp_path / "t").write_text("a b")
    (tmp_path / "file").touch()
    refused(OSError, str(tmp_path / "file"), tmp_path / "t", cache_dir=tmp_path / "file")


def test_full_disk_names_the_file(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full, which this system lacks")
    builder = _text.Builder(tokenizer="whitespace", spill_path=str(tmp_path / "s"))
    builder.begin_source("t")
    builder.feed(b"a b " * 1_000_000)
    builder.end_source()
    builder.make_vocabulary(1, None, [])
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        builder.write_ids("/dev/full", 10_000, 1_000)
    spilling = _text.Builder(tokenizer="whitespace", spill_path=str(tmp_path / "no" / "s"), spill_after=0, threads=2)
    spilling.begin_source("t")
    spilling.feed(b"a b ")
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "no" / "s")):
        spilling.end_source()
        spilling.make_vocabulary(1, None, [])


@pytest.fixture
def made(tmp_path):
    (tmp_path / "t").write_text("a b c\n" * 5000)
    corpus = prepare_corpus(tmp_path / "t", ALL_WORDS, cache_dir=tmp_path / "c")
    ids = corpus.ids.copy()
    yield tmp_path / "t", corpus.path, ids


def flip(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("ids.bin", lambda d: d[:-4], "damaged: expected 80000 bytes, got 79996"),
        ("ids.bin", lambda d: b"", "damaged: expected 80000 bytes, got 0"),
        (
            "ids.bin",
            lambda d: d[:4] + b"\x07\0\0\0" + d[8:],
            "damaged: expected ids from -1 to 2, the last one -1, got",
        ),
        ("ids.bin", lambda d: d[:-4] + b"\0\0\0\0", "damaged: expected ids from -1 to 2, the last one -1, got"),
        ("ids.bin", None, "the file is missing from the corpus"),
        ("vocab.tsv", lambda d: flip(d, 0), "damaged: its checksum is not the one in corpus.json"),
        ("vocab.tsv", None, "the file is missing from the corpus"),
        ("corpus.json", lambda d: d[:-20], "damaged: "),
        ("corpus.json", lambda d: b"[]", "damaged: its checksum does not fit its contents"),
        ("corpus.json", lambda d: d.replace(b"15000", b"15001"), "damaged: its checksum does not fit its contents"),
        ("corpus.json", lambda d: b"\xff" + d, "damaged: "),
        ("corpus.json", None, "the file is missing from the corpus"),
    ],
)
def test_damaged_cache_is_named_and_rebuilt(made, name, damage, message):
    source, path, ids = made
    if damage:
        (path / name).write_bytes(damage((path / name).read_bytes()))
    else:
        (path / name).unlink()
    with pytest.raises(CorpusError, match=re.escape(f"{path / name}: {message}")):
        Corpus.open(path)
    rebuilt = prepare_corpus(source, ALL_WORDS, cache_dir=path.parents[1])
    assert rebuilt.path == path and np.array_equal(rebuilt.ids, ids)
    assert list(path.parent.iterdir()) == [path]
    Corpus.open(path).verify()


def test_verify_reads_everything(made):
    _, path, ids = made
    bad = np.fromfile(path / "ids.bin", "<i4")
    bad[7] = 1  # was a marker
    bad.tofile(path / "ids.bin")
    with pytest.raises(CorpusError, match="ids.bin: damaged: 4999 sentences, not 5000"):
        Corpus.open(path).verify()
    with pytest.raises(FileNotFoundError, match="no such corpus directory"):
        Corpus.open(path.parent / "other")


def test_interrupt_stops_promptly_and_cleans_up(tmp_path, cache):
    with open(tmp_path / "t", "wb") as file:
        file.truncate(40 << 30)  # a hole of 40 GB: NULs without a space, dropped as one token
    code = (
        "import signal, sys; from w2v_ext.corpus import CorpusOptions, prepare_corpus\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background begins without\n"
        "prepare_corpus(sys.argv[1], CorpusOptions(errors='replace'), cache_dir=sys.argv[2],\n"
        "    progress=lambda done, total: print('go', flush=True) if 0 < done < 1 << 27 else None)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "t", cache], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "go\n"
    assert [p.name.split("-")[0] for p in (cache / "corpora").iterdir()] == [".building"]
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - start < 5 and errors.strip().endswith("KeyboardInterrupt")
    assert process.returncode != 0 and list((cache / "corpora").iterdir()) == []


@pytest.mark.parametrize(
    ("sequences", "error", "message"),
    [
        ([["a"], "abc"], TypeError, "sequences[1]: expected a sequence of items, got the string 'abc'"),
        ([["a", 1.5]], TypeError, "sequences[0]: expected integers or strings, got an item of type float"),
        ([[True]], TypeError, "sequences[0]: expected integers or strings, got an item of type bool"),
        ([["a", "b\tc"]], ValueError, "sequences[0]: expected words without tab or line break, and not empty, got 'b"),
        ([["a", "b\n"]], ValueError, "sequences[0]: expected words without tab or line break, and not empty, got 'b"),
        ([["a", ""]], ValueError, "sequences[0]: expected words without tab or line break, and not empty, got ''"),
        ([["a", "\ud800"]], ValueError, "sequences[0]: '\\ud800' cannot be written as UTF-8"),
        ([["a"], [2**63]], ValueError, "sequences[1]: expected integers below 2**63, got 9223372036854775808"),
        (np.array([[2**63]], dtype=np.uint64), ValueError, "sequences: expected integers below 2**63"),
        (np.zeros((2, 3)), ValueError, "expected a 2-D array of integers, got shape (2, 3) and dtype float64"),
        (np.zeros(3, int), ValueError, "expected a 2-D array of integers, got shape (3,) and dtype int64"),
        ([], ValueError, "sequences: there are no items in them"),
        ([[-1, -2], []], ValueError, "sequences: there are no items in them"),
        ([[1, 1, 1]], ValueError, "vocabulary: needs at least two words, got only '1'"),
    ],
)
def test_sequences(cache, sequences, error, message):
    with pytest.raises(error, match=re.escape(message)):
        corpus_from_sequences(sequences, cache_dir=cache)
