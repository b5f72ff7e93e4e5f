"""What prepare_corpus makes of files, pipes and sequences, and how its cache keeps it."""

import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from w2v_ext import _text
from w2v_ext.corpus import Corpus, CorpusOptions, corpus_from_sequences, prepare_corpus
from w2v_ext.vocab import SPECIALS


def test_corpus_files(tmp_path):
    (tmp_path / "t").write_text("b a a b c\n\nx\na b\n")
    corpus = prepare_corpus(tmp_path / "t", CorpusOptions(min_count=1, max_vocab=3), cache_dir=tmp_path / "cache")
    assert (corpus.path / "vocab.tsv").read_text() == "a\t3\nb\t3\nc\t1\n"
    assert corpus.ids.tolist() == [1, 0, 0, 1, 2, -1, 0, 1, -1]
    assert corpus.ids.dtype == np.int32 and not corpus.ids.flags.writeable
    assert (corpus.num_tokens, corpus.num_sentences, corpus.raw_words) == (7, 2, 8)
    meta = json.loads((corpus.path / "corpus.json").read_text())
    assert (meta["distinct_words"], meta["longest_sentence"], meta["replacements"]) == (4, 5, 0)
    assert meta["sources"][0]["path"] == str(tmp_path / "t") and meta["options"]["max_vocab"] == 3
    assert [corpus.vocab.decode(s) for s in corpus.sentences()] == [list("baabc"), ["a", "b"]]
    corpus.verify()


def test_specials_come_first_and_are_not_words(tmp_path):
    (tmp_path / "t").write_text("<UNK> a a b <PAD>")
    corpus = prepare_corpus(tmp_path / "t", CorpusOptions(min_count=1, specials=True), cache_dir=tmp_path)
    assert corpus.vocab.words == [*SPECIALS, "a", "b"] and corpus.vocab.num_specials == 4
    assert corpus.ids.tolist() == [4, 4, 5, -1] and corpus.raw_words == 5


def zstd_frames(*parts):
    zstandard = pytest.importorskip("zstandard")
    return b"".join(zstandard.ZstdCompressor().compress(part) for part in parts)


TEXT_BYTES = "\ufeff".encode() + "one two é\ntwo one 中\n".encode() * 1000


@pytest.mark.parametrize(
    "packed",
    [
        lambda: TEXT_BYTES,
        lambda: gzip.compress(TEXT_BYTES),
        lambda: gzip.compress(TEXT_BYTES[:1001]) + gzip.compress(TEXT_BYTES[1001:]),
        lambda: lzma.compress(TEXT_BYTES),
        lambda: lzma.compress(TEXT_BYTES[:77]) + lzma.compress(TEXT_BYTES[77:]),
        lambda: zstd_frames(TEXT_BYTES),
        lambda: zstd_frames(TEXT_BYTES[:5], b"", TEXT_BYTES[5:]),
    ],
    ids=["plain", "gzip", "gzip members", "xz", "xz streams", "zstd", "zstd frames"],
)
def test_compression_is_seen_from_the_contents(tmp_path, monkeypatch, packed):
    (tmp_path / "plain").write_bytes(TEXT_BYTES)
    (tmp_path / "packed.txt").write_bytes(packed())
    calls = []
    plain = prepare_corpus(tmp_path / "plain", cache_dir=tmp_path / "cache")
    corpus = prepare_corpus(
        tmp_path / "packed.txt", cache_dir=tmp_path / "cache", progress=lambda *args: calls.append(args)
    )
    assert corpus.vocab.words[:2] == ["one", "two"] and corpus.raw_words == 6000
    assert np.array_equal(corpus.ids, plain.ids)
    size = (tmp_path / "packed.txt").stat().st_size
    assert calls[-1] == (size, size)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(packed())))
    with prepare_corpus("-", cache_dir=tmp_path / "cache") as from_stdin:
        assert np.array_equal(from_stdin.ids, plain.ids)
        assert from_stdin.path.is_dir() and tmp_path not in from_stdin.path.parents
    assert not from_stdin.path.exists()


def test_several_sources_and_directories_in_order(tmp_path):
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / ".hidden").mkdir()
    for name, text in {
        "d/b": "b",
        "d/a": "\ufeffa ",
        "d/sub/c": "c\n",
        "d/.no": "no",
        "d/.hidden/x": "no",
        "e": "e",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "d" / "empty").touch()
    sources = [tmp_path / "e", str(tmp_path / "d"), tmp_path / "e"]
    corpus = prepare_corpus(sources, CorpusOptions(min_count=1), cache_dir=tmp_path / "cache")
    assert [corpus.vocab.decode(s) for s in corpus.sentences()] == [["e"], ["a"], ["b"], ["c"], ["e"]]
    assert len(corpus.meta["sources"]) == 6


def test_pipes_are_read_like_standard_input(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(gzip.compress(b"a b " * 50)))
    writer.start()
    with prepare_corpus(tmp_path / "pipe", cache_dir=tmp_path / "cache") as corpus:
        assert corpus.num_tokens == 100
    writer.join()
    assert not (tmp_path / "cache").exists()


def test_cache_is_reused_and_rebuilt(tmp_path, monkeypatch):
    source, cache = tmp_path / "t", tmp_path / "cache"
    source.write_text("a b c " * 10)
    monkeypatch.setenv("W2V_EXT_CACHE", str(cache))
    first = prepare_corpus(source)
    made = (first.path / "ids.bin").stat().st_mtime_ns, (first.path / "ids.bin").stat().st_ino
    monkeypatch.chdir(tmp_path)
    again = prepare_corpus("t", threads=1)
    assert again.path == first.path and first.path.parent == cache / "corpora"
    assert ((again.path / "ids.bin").stat().st_mtime_ns, (again.path / "ids.bin").stat().st_ino) == made
    assert prepare_corpus(source, CorpusOptions(lowercase=True)).path != first.path
    os.utime(source, ns=(1, 1))
    assert prepare_corpus(source).path != first.path
    source.write_text("a b c d " * 10)
    assert len(prepare_corpus(source).vocab) == 4
    assert not list((cache / "corpora").glob(".*"))


def test_two_builders_at_once(tmp_path):
    (tmp_path / "t").write_text("some words and others\n" * 200_000)
    code = (
        "import sys; from w2v_ext.corpus import prepare_corpus\n"
        f"sys.stdin.readline(); print(prepare_corpus({str(tmp_path / 't')!r}, cache_dir={str(tmp_path / 'c')!r}).path)"
    )
    run = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    processes = [subprocess.Popen([sys.executable, "-c", code], **run) for _ in range(3)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    paths = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0] and len(paths) == 1
    assert [str(p) for p in (tmp_path / "c" / "corpora").iterdir()] == list(paths)
    Corpus.open(paths.pop()).verify()


def test_spilling_keeps_memory_apart_from_corpus_length(tmp_path):
    code = (
        "import sys, resource, importlib.machinery as m, importlib.util as u\n"  # _text alone: no torch in the way
        f"l = m.ExtensionFileLoader('_text', {_text.__file__!r}); s = u.spec_from_loader('_text', l)\n"
        "t = u.module_from_spec(s); l.exec_module(t)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "b = t.Builder(tokenizer='whitespace', threads=2, spill_path=sys.argv[1] + '/s', spill_after=1 << 20)\n"
        "b.begin_source('x'); line = b'some words and others of it\\n' * 40000\n"
        "for i in range(20): b.feed(line)\n"
        "before = peak()\n"
        "for i in range(180): b.feed(line)\n"
        "b.end_source(); b.make_vocabulary(1, None, []); print(b.write_ids(sys.argv[1] + '/ids', 10000, 1000))\n"
        "print((peak() - before) // 1024)"
    )
    out = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True).stdout
    written, grown_mb = out.strip().split("\n")
    assert "'num_tokens': 48000000" in written
    assert int(grown_mb) < 40  # 224 MB of text, 192 MB of ids; numpy's import is among it


def test_progress_is_called_while_reading(tmp_path):
    (tmp_path / "t").write_text("some words and others\n" * 2_000_000)
    calls = []
    prepare_corpus(tmp_path / "t", cache_dir=tmp_path / "c", threads=1, progress=lambda *args: calls.append(args))
    size = (tmp_path / "t").stat().st_size
    assert calls[-1] == (size, size) and len(calls) >= 3
    assert all(done <= total == size for done, total in calls) and calls == sorted(calls)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.uint64])
def test_walks_as_an_array(dtype):
    walks = np.array([[1, 2, 3], [3, 3, 0]], dtype=dtype)
    with corpus_from_sequences(walks) as corpus:
        assert corpus.vocab.words == ["3", "0", "1", "2"]
        assert [corpus.vocab.decode(s) for s in corpus.sentences()] == [["1", "2", "3"], ["3", "3", "0"]]
        path = corpus.path
    assert not path.exists()


def test_padding_in_walks_is_skipped():
    walks = np.array([[5, -1, 7], [-1, -1, -1], [7, 2**62, -5]])
    for given_as in (walks, walks.tolist(), iter(list(walks))):
        with corpus_from_sequences(given_as) as corpus:
            got = [corpus.vocab.decode(s) for s in corpus.sentences()]
        assert got == [["5", "7"], ["7", str(2**62)]]


def test_sequences_of_strings_and_both(tmp_path):
    baskets = (basket for basket in [["new york", "tea"], ["tea", 7, np.int16(-3), "ø\x1c "], []])
    corpus = corpus_from_sequences(baskets, cache_dir=tmp_path)
    assert [corpus.vocab.decode(s) for s in corpus.sentences()] == [["new york", "tea"], ["tea", "7", "ø\x1c "]]
    same = corpus_from_sequences([["new york", "tea"], ["tea", 7, "ø\x1c "]], cache_dir=tmp_path)
    assert same.path == corpus.path and len(list((tmp_path / "corpora").iterdir())) == 1
    assert Corpus.open(corpus.path).vocab.words == corpus.vocab.words
