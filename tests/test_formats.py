"""The word2vec formats and the model directory: exact round trips, and every way a file can be wrong."""

import gzip
import json
import os
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file

from w2v_ext.formats import FormatError, load_model, load_word2vec_format, save_model, save_word2vec_format

VECTORS = np.array([[0.1, -2.5], [1e-45, 3.4028235e38], [0.0, 7.0]], dtype=np.float32)
WORDS = ["the", "naïve", "词"]
TEXT = "3 2\nthe 0.1 -2.5\nnaïve 1e-45 3.4028235e+38\n词 0.0 7.0\n".encode()


def record(word, *values, end=b"\n"):
    return word.encode() + b" " + struct.pack(f"<{len(values)}f", *values) + end


def binary_bytes(end):
    return b"3 2\n" + b"".join(record(w, *v, end=end) for w, v in zip(WORDS, VECTORS.tolist(), strict=True))


def write(path, data):
    path.write_bytes(data)
    return path


def same_bits(a, b):
    return a.dtype == b.dtype == np.float32 and a.tobytes() == b.tobytes()


# ---- word2vec: what is written and read --------------------------------------------------------------------------


def test_text_bytes(tmp_path):
    save_word2vec_format(tmp_path / "v", WORDS, VECTORS)
    assert (tmp_path / "v").read_bytes() == TEXT
    assert [entry.name for entry in tmp_path.iterdir()] == ["v"]


def test_binary_bytes(tmp_path):
    save_word2vec_format(tmp_path / "v", WORDS, VECTORS, binary=True)
    assert (tmp_path / "v").read_bytes() == binary_bytes(b"\n")


@pytest.mark.parametrize("compress", [lambda data: data, gzip.compress])
@pytest.mark.parametrize(
    ("data", "binary"),
    [
        (TEXT, False),
        (TEXT.replace(b"\n", b" \r\n").replace(b"3 2 \r", b"3 2\r"), False),  # as fastText and Windows write
        (TEXT[:-1], False),
        (binary_bytes(b"\n"), True),
        (binary_bytes(b""), True),
    ],
)
def test_read(tmp_path, compress, data, binary):
    words, vectors = load_word2vec_format(write(tmp_path / "v", compress(data)), binary=binary)
    assert words == WORDS and same_bits(vectors, VECTORS)


def test_gzip_is_written_where_the_name_says_so(tmp_path):
    save_word2vec_format(tmp_path / "v.gz", WORDS, VECTORS)
    assert gzip.decompress((tmp_path / "v.gz").read_bytes()) == TEXT


@settings(max_examples=60, deadline=None)
@given(
    bits=hnp.arrays(np.uint32, st.tuples(st.integers(1, 5), st.integers(1, 9))),
    binary=st.booleans(),
)
def test_any_float32_survives(tmp_path_factory, bits, binary):
    vectors = bits.view(np.float32)
    vectors = np.where(np.isfinite(vectors), vectors, np.float32(-0.0))
    path = tmp_path_factory.mktemp("v") / "v"
    words = [f"w{i}" for i in range(len(vectors))]
    save_word2vec_format(path, words, vectors, binary=binary)
    got_words, got = load_word2vec_format(path, binary=binary)
    assert got_words == words and same_bits(got, vectors)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(("rows", "dim"), [(0, 3), (1, 1), (20_001, 60), (2, 20_000)])
def test_sizes(tmp_path, rows, dim, binary):
    """More rows than are set aside at first, rows larger than any read buffer, none at all."""
    bits = np.random.default_rng(0).integers(0, 0x7F80, (rows, dim), dtype=np.uint32) << 16
    words = [f"w{i}" for i in range(rows)]
    save_word2vec_format(tmp_path / "v", words, bits.view(np.float32), binary=binary)
    got_words, got = load_word2vec_format(tmp_path / "v", binary=binary)
    assert got_words == words and got.shape == (rows, dim) and same_bits(got, bits.view(np.float32))


def test_counts_order_the_rows(tmp_path):
    save_word2vec_format(tmp_path / "v", ["a", "b", "c", "d"], [[1], [2], [3], [4]], counts=[5, 9, 5, 9])
    assert (tmp_path / "v").read_text() == "4 1\nb 2.0\nd 4.0\na 1.0\nc 3.0\n"


def test_equal_counts_stay_in_order(tmp_path):
    words = [f"w{i}" for i in range(1000)]
    save_word2vec_format(tmp_path / "v", words, np.ones((1000, 1)), counts=np.arange(1000) % 2)
    assert load_word2vec_format(tmp_path / "v")[0] == words[1::2] + words[::2]


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("limit", [0, 2, 3, 99])
def test_limit(tmp_path, binary, limit):
    data = binary_bytes(b"\n") if binary else TEXT
    words, vectors = load_word2vec_format(write(tmp_path / "v", data), binary=binary, limit=limit)
    assert words == WORDS[:limit] and same_bits(vectors, VECTORS[:limit])


def test_limit_does_not_look_further(tmp_path):
    words, _ = load_word2vec_format(write(tmp_path / "v", b"9 1\na 1\nb 2\nc x y\n"), limit=2)
    assert words == ["a", "b"]
    with pytest.raises(ValueError, match="limit: expected None or a number >= 0, got -1"):
        load_word2vec_format(tmp_path / "v", limit=-1)


def test_dtype(tmp_path):
    _, vectors = load_word2vec_format(write(tmp_path / "v", b"1 1\na 0.1\n"), dtype=np.float64)
    assert vectors.dtype == np.float64 and vectors[0, 0] == 0.1


@pytest.mark.parametrize("binary", [False, True])
def test_duplicate_words(tmp_path, binary):
    data = b"3 1\n" + record("a", 1) + record("b", 2) + record("a", 3) if binary else b"3 1\na 1\nb 2\na 3\n"
    with pytest.warns(UserWarning, match="v: 1 repeated words dropped, first 'a'"):
        words, vectors = load_word2vec_format(write(tmp_path / "v", data), binary=binary)
    assert words == ["a", "b"] and vectors.tolist() == [[1], [2]]


@pytest.mark.parametrize(("errors", "word"), [("replace", "\ufffdx"), ("ignore", "x")])
def test_not_utf8_goes_on(tmp_path, errors, word):
    assert load_word2vec_format(write(tmp_path / "v", b"1 1\n\xffx 1\n"), errors=errors)[0] == [word]


@pytest.mark.parametrize("binary", [False, True])
def test_gensim_reads_and_writes_the_same(tmp_path, binary):
    gensim = pytest.importorskip("gensim.models", reason="compares with gensim where it is installed")
    vectors = np.random.default_rng(1).normal(size=(50, 7)).astype(np.float32)
    words = [f"wörd{i}" for i in range(50)]
    save_word2vec_format(tmp_path / "ours", words, vectors, binary=binary)
    theirs = gensim.KeyedVectors.load_word2vec_format(tmp_path / "ours", binary=binary)
    assert theirs.index_to_key == words and same_bits(theirs.vectors, vectors)
    theirs.save_word2vec_format(tmp_path / "theirs", binary=binary)
    got_words, got = load_word2vec_format(tmp_path / "theirs", binary=binary)
    assert got_words == words and same_bits(got, vectors)


# ---- word2vec: what is refused -----------------------------------------------------------------------------------

BIN = record("aa", 1, 2) + record("b", 3, 4)


@pytest.mark.parametrize(
    ("data", "binary", "message"),
    [
        (b"", False, "line 1: expected a header 'rows columns', got ''"),
        (b"the 0.1 0.2\n", False, "line 1: expected a header 'rows columns', got 'the 0.1 0.2'"),
        (b"-3 2\n", True, "line 1: expected a header"),
        (b"3 2", False, "line 1: expected a header"),
        (b"\x80\x02}q\x00" * 100, True, "line 1: expected a header"),  # a pickle is not opened
        (b"3 0\n", False, "line 1: the header says 0 columns, expected 1 to 1048576"),
        (b"1 1000000000000\na 1\n", True, "line 1: the header says 1000000000000 columns"),
        (b"3 1\na 1\nb 2\n", False, "truncated: the header says 3 rows, the file ends after 2"),
        (b"1000000000000 1\na 1\n", False, "truncated: the header says 1000000000000 rows, the file ends after 1"),
        (b"1 1\na 1\nb 2\n", False, "the header says 1 rows, but more data follows them"),
        (b"2 2\na 1 2\nb 1\n", False, "line 3: expected a word and 2 numbers, got 2 fields"),
        (b"2 2\na 1 2\nb 1 2 3\n", False, "line 3: expected a word and 2 numbers, got 4 fields"),
        (b"1 1\n\n", False, "line 2: expected a word and 1 numbers, got 1 fields"),
        (b"1 1\n 5\n", False, "line 2: the word is empty"),
        (b"1 2\na 1 x\n", False, "line 2: not a number: .*x"),
        (b"1 2\na 1 nan\n", False, r"line 2: the vector of 'a' is not finite \(number 2\)"),
        (b"1 2\na 1e39 1\n", False, r"line 2: the vector of 'a' is not finite \(number 1\)"),
        (b"1 1\n\xff\xfe 1\n", False, r"line 2: the word b'\\xff\\xfe' is not UTF-8 \(byte 0 of it\)"),
        (b"1 1\n" + b"x" * 3_000_000, False, "line 2: longer than a word and 1 numbers can be"),
        (b"3 2\n" + BIN, True, "truncated: the header says 3 rows, the file ends after 2"),
        (b"1000000000000 2\n" + BIN, True, "the header says 1000000000000 rows, the file ends after 2"),
        (b"1 2\n" + BIN, True, "the header says 1 rows, but more data follows them"),
        (b"2 2\n" + BIN[:-3], True, "record 2 at byte 15: truncated: 6 bytes of a vector of 8"),
        (b"2 2\n" + BIN[:13], True, "record 2 at byte 15: no space after the word: truncated"),
        (b"1 2\n" + b"x" * 3_000_000, True, "record 1 at byte 4: no space after the word"),
        (b"1 2\n" + record("", 1, 2), True, "record 1 at byte 4: the word is empty"),
        (b"1 2\n" + record("a", 1, float("inf")), True, r"record 1 at byte 4: the vector of 'a' is not finite"),
        (b"1 1\n\xff " + b"\0\0\0\0", True, r"record 1 at byte 4: the word b'\\xff' is not UTF-8"),
        (gzip.compress(TEXT)[:-12], False, "damaged or truncated gzip data"),
        (gzip.compress(TEXT)[:20] + b"\xff" * 9, False, "damaged or truncated gzip data"),
    ],
)
def test_damaged_file(tmp_path, data, binary, message):
    path = write(tmp_path / "vectors.vec", data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FormatError, match=message) as error:
            load_word2vec_format(path, binary=binary)
    assert str(error.value).startswith(f"{path}: ")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_word2vec_format(tmp_path / "none")


@pytest.mark.parametrize(
    ("words", "vectors", "counts", "message"),
    [
        (["new york"], [[1]], None, "words: 'new york' is empty or contains white space"),
        (["a", "b\nc"], [[1], [2]], None, r"words: 'b\\nc' is empty or contains white space"),
        ([""], [[1]], None, "words: '' is empty or contains white space"),
        (["\udc80"], [[1]], None, r"words: '\\udc80' cannot be written as UTF-8"),
        (["a", "b", "a"], [[1], [2], [3]], None, "words: 'a' appears twice"),
        (["a"], [[1], [2]], None, "words: expected 2 to match vectors, got 1"),
        (["a"], [1], None, r"vectors: expected shape \(V, D\) with D >= 1, got \(1,\)"),
        (["a"], [[]], None, r"vectors: expected shape \(V, D\) with D >= 1, got \(1, 0\)"),
        (["a", "b"], [[1], [np.nan]], None, "vectors: the vector of 'b' is not finite"),
        (["a", "b"], [[1e39], [1]], None, "vectors: the vector of 'a' is not finite as float32"),
        (["a", "b"], [[1], [2]], [1], r"counts: expected shape \(2,\) to match vectors, got \(1,\)"),
    ],
)
@pytest.mark.parametrize("binary", [False, True])
def test_save_refuses(tmp_path, words, vectors, counts, message, binary):
    with pytest.raises(ValueError, match=message):
        save_word2vec_format(tmp_path / "v", words, np.array(vectors, dtype=np.float64), counts, binary)
    assert list(tmp_path.iterdir()) == []


# ---- the model directory -----------------------------------------------------------------------------------------


def save(directory, seed=0, metrics=None, **config):
    weights = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed))
    save_model(directory, weights[0], weights[1], ["a", "new york", "词"], [9, 4, 0], {"dim": 4, **config}, metrics)
    return weights


def snapshot(directory):
    return {entry.name: entry.read_bytes() for entry in directory.iterdir()}


def test_model_round_trip(tmp_path):
    weights = save(tmp_path / "new" / "model", metrics={"loss": [4.1, 3.9]}, out=tmp_path, seed_used=np.int64(3))
    directory = tmp_path / "new" / "model"
    assert sorted(snapshot(directory)) == ["config.json", "metrics.json", "model.safetensors", "vocab.tsv"]
    assert (directory / "vocab.tsv").read_bytes() == "a\t9\nnew york\t4\n词\t0\n".encode()
    assert json.loads((directory / "metrics.json").read_text()) == {"loss": [4.1, 3.9]}
    model = load_model(directory)
    assert torch.equal(model.in_weight, weights[0]) and torch.equal(model.out_weight, weights[1])
    assert model.words == ["a", "new york", "词"]
    assert model.counts.dtype == np.int64 and model.counts.tolist() == [9, 4, 0]
    assert model.config == {"dim": 4, "out": str(tmp_path), "seed_used": 3}
    modes = {entry.stat().st_mode for entry in directory.iterdir()}
    assert len(modes) == 1, "all files are readable by the same people"


def test_model_variants(tmp_path):
    padded = torch.arange(24, dtype=torch.bfloat16).reshape(3, 8)
    save_model(tmp_path, padded[:, :5], None, ["a", "b", "c"], torch.tensor([1, 2, 3]), {})
    model = load_model(tmp_path)
    assert model.out_weight is None
    assert model.in_weight.dtype == torch.bfloat16 and torch.equal(model.in_weight, padded[:, :5])
    tied = np.ones((1, 2), dtype=np.float32)
    save_model(tmp_path, tied, tied, ["a"], [1], {})
    assert torch.equal(load_model(tmp_path).out_weight, torch.ones(1, 2))
    save_model(tmp_path, torch.empty(0, 2), None, [], [], {})
    assert load_model(tmp_path).words == []


def test_metrics_of_an_earlier_model_go(tmp_path):
    save(tmp_path, metrics={"loss": 1})
    save(tmp_path, seed=1)
    assert not (tmp_path / "metrics.json").exists()


def test_interrupted_save_leaves_the_earlier_model(tmp_path, monkeypatch):
    save(tmp_path, metrics={"loss": 1})
    before = snapshot(tmp_path)

    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("w2v_ext.formats._fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, seed=1)
    assert snapshot(tmp_path) == before


def test_files_are_replaced_not_rewritten(tmp_path):
    """Whoever has the earlier model open goes on reading that one."""
    save(tmp_path)
    before = snapshot(tmp_path)
    opened = {name: (tmp_path / name).open("rb") for name in before}
    save(tmp_path, seed=1, more="settings")
    try:
        assert {name: file.read() for name, file in opened.items()} == before
    finally:
        for file in opened.values():
            file.close()
    assert snapshot(tmp_path) != before


def test_crash_between_the_renames_is_noticed(tmp_path):
    save(tmp_path)
    (tmp_path / "vocab.tsv").write_text("x\t9\ny\t4\nz\t0\n")
    with pytest.raises(FormatError, match="vocab.tsv: is not the vocabulary that model.safetensors was saved with"):
        load_model(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
@pytest.mark.parametrize(
    ("limit", "named"), [(1000, "model.safetensors"), (5000, "config.json"), (1000, "v.txt"), (1000, "v.gz")]
)
def test_full_disk(tmp_path, limit, named):
    """A limit on file sizes makes writes fail as a full disk does; it cannot be taken back, hence the subprocess."""
    save(tmp_path)
    before = snapshot(tmp_path)
    script = f"""
import resource, numpy as np
from w2v_ext import formats
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
words, vectors = [str(i) for i in range(50)], np.random.default_rng(0).normal(size=(50, 16))
try:
    if {named[0]!r} == "v":
        formats.save_word2vec_format({str(tmp_path / named)!r}, words, vectors)
    else:
        vectors = vectors[:, :20 if {limit} < 2000 else 4].astype("float32")
        formats.save_model({str(tmp_path)!r}, vectors, None, words, range(50), {{"note": "x" * 9000}})
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert f"cannot write {tmp_path / named}: " in done.stdout and "File too large" in done.stdout, done
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_directory(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=f"cannot write {tmp_path / 'model.safetensors'}"):
        save(tmp_path)
    with pytest.raises(PermissionError, match=f"cannot make the directory {tmp_path / 'x'}"):
        save(tmp_path / "x")


def test_read_only_errors_name_the_path(tmp_path, monkeypatch):
    """The same as root, who is not stopped by permissions."""
    monkeypatch.setattr("pathlib.Path.touch", lambda self: os.open("/", os.O_WRONLY))
    with pytest.raises(IsADirectoryError, match=f"cannot write {tmp_path / 'model.safetensors'}: "):
        save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_directory_is_a_file(tmp_path):
    write(tmp_path / "f", b"")
    for path in (tmp_path / "f", tmp_path / "f" / "g"):
        with pytest.raises(OSError, match=f"cannot make the directory {path}: "):
            save(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_weight": torch.ones(2, 4)}, r"in_weight: expected shape \(3, D\) to match words, got \(2, 4\)"),
        ({"in_weight": torch.ones(3)}, r"in_weight: expected shape \(3, D\) to match words, got \(3,\)"),
        ({"out_weight": torch.ones(3, 5)}, r"out_weight: expected shape \(3, 4\) to match words, got \(3, 5\)"),
        ({"words": ["a", "b", "c\td"]}, r"words: 'c\\td' is empty or contains a tab or newline"),
        ({"words": ["a", "b", "a"]}, "words: 'a' appears twice"),
        ({"words": ["a", "", "c"]}, "words: '' is empty"),
        ({"words": ["a", "b", "\ud800"]}, r"words: near .*ud800.: not UTF-8"),
        ({"counts": [1, 2]}, r"counts: expected shape \(3,\) to match words, got \(2,\)"),
        ({"counts": [1, 2, -3]}, "counts: expected non-negative integers, got int64 from -3"),
        ({"counts": [1.0, 2.0, 3.0]}, "counts: expected non-negative integers, got float64"),
    ],
)
def test_save_model_refuses(tmp_path, change, message):
    good = {"in_weight": torch.ones(3, 4), "out_weight": None, "words": list("abc"), "counts": [1, 2, 3], "config": {}}
    with pytest.raises(ValueError, match=message):
        save_model(tmp_path / "m", **(good | change))
    assert not (tmp_path / "m").exists()
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        save_model(tmp_path / "m", **(good | {"config": {"f": object()}}))
    assert not (tmp_path / "m").exists()


def damage(name, change):
    def apply(directory):
        path = directory / name
        path.write_bytes(change(path.read_bytes()))

    return apply


def tensors(metadata=None, **weights):
    return lambda directory: save_file(weights, directory / "model.safetensors", metadata=metadata)


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors: no such file"),
        (lambda d: (d / "vocab.tsv").unlink(), "vocab.tsv: cannot be read: No such file"),
        (lambda d: (d / "config.json").unlink(), "config.json: cannot be read: No such file"),
        (damage("model.safetensors", lambda b: b[:-1]), "model.safetensors: damaged or truncated"),
        (damage("model.safetensors", lambda b: b[:20]), "model.safetensors: damaged or truncated"),
        (damage("model.safetensors", lambda b: b""), "model.safetensors: damaged or truncated"),
        (damage("model.safetensors", lambda b: b"\xff" * 8 + b[8:]), "model.safetensors: damaged or truncated"),
        (tensors(other=torch.ones(3, 4)), "model.safetensors: has no tensor in_weight"),
        (tensors(in_weight=torch.ones(3)), r"in_weight is torch.float32 of shape \(3,\), expected float \(V, D\)"),
        (tensors(in_weight=torch.ones(3, 4).int()), "in_weight is torch.int32"),
        (tensors(in_weight=torch.ones(3, 4), out_weight=torch.ones(2, 4)), r"out_weight is .* of shape \(2, 4\)"),
        (tensors({"version": "2"}, in_weight=torch.ones(3, 4)), "format version 2, this library reads 1"),
        (damage("vocab.tsv", lambda b: b + b"z\t1\n"), "vocab.tsv: 4 words, but model.safetensors has 3 rows"),
        (damage("vocab.tsv", lambda b: b[:-1]), "vocab.tsv: truncated: the last line has no newline"),
        (damage("vocab.tsv", lambda b: b"\n" + b), "vocab.tsv: line 1: expected 'word<TAB>count', got b''"),
        (damage("vocab.tsv", lambda b: b.replace(b"4", b"-4")), "vocab.tsv: line 2: expected 'word<TAB>count'"),
        (damage("vocab.tsv", lambda b: b.replace(b"4", b"4" * 30)), "vocab.tsv: line 2: expected 'word<TAB>count'"),
        (damage("vocab.tsv", lambda b: b.replace(b"new york", b"a")), "vocab.tsv: line 2: the word 'a' appears twice"),
        (damage("vocab.tsv", lambda b: b"\xff" + b), r"vocab.tsv: line 1: the word b'\\xffa' is not UTF-8"),
        (damage("config.json", lambda b: b[:-3]), "config.json: not valid JSON"),
        (damage("config.json", lambda b: b"\xff"), "config.json: not valid JSON"),
        (damage("config.json", lambda b: b"[1]"), "config.json: expected a JSON object, got list"),
    ],
)
def test_damaged_model(tmp_path, apply, message):
    save(tmp_path)
    apply(tmp_path)
    with pytest.raises(FormatError, match=message) as error:
        load_model(tmp_path)
    assert str(error.value).startswith(str(tmp_path))
