"""The word2vec formats: exact round trips, and every way a file can be wrong."""

import gzip
import struct
import subprocess
import sys
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from w2v_ext.files import FormatError
from w2v_ext.formats import load_word2vec_format, save_word2vec_format

VECTORS = np.array([[0.1, -2.5], [1e-45, 3.4028235e38], [0.0, 7.0]], dtype=np.float32)
WORDS = ["the", "naïve", "词"]
TEXT = "3 2\nthe 0.1 -2.5\nnaïve 1e-45 3.4028235e+38\n词 0 7\n".encode()


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
    assert (tmp_path / "v").read_text() == "4 1\nb 2\nd 4\na 1\nc 3\n"


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
        (b"1 1\n\n", False, "truncated: the header says 1 rows, the file ends after 0"),
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
        (gzip.compress(TEXT, mtime=0)[:-12], False, "the compressed data are damaged or incomplete"),
        (gzip.compress(TEXT, mtime=0)[:20] + b"\xff" * 9, False, "the compressed data are damaged or incomplete"),
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


# ---- numbers -----------------------------------------------------------------------------------------------------


def read_numbers(tmp_path, texts, dtype=np.float64):
    path = write(tmp_path / "v", f"1 {len(texts)}\nw {' '.join(texts)}\n".encode())
    return load_word2vec_format(path, dtype=dtype)[1][0]


@settings(max_examples=300, deadline=None)
@given(
    digits=st.text("0123456789", min_size=1, max_size=25),
    point=st.integers(0, 25),
    exponent=st.none() | st.integers(-60, 40),
    sign=st.sampled_from(["", "-", "+"]),
)
def test_numbers_are_those_of_float(tmp_path_factory, digits, point, exponent, sign):
    text = sign + digits[:point] + "." + digits[point:] + ("" if exponent is None else f"e{exponent}")
    (value,) = read_numbers(tmp_path_factory.mktemp("v"), [text])
    assert value == float(text) and np.signbit(value) == text.startswith("-")
    if abs(float(text)) < 3e38:
        (single,) = read_numbers(tmp_path_factory.mktemp("v"), [text], np.float32)
        nearest = np.float32(float(text))
        assert single == nearest or abs(float(text) - float(nearest)) == abs(float(text) - float(single))


@pytest.mark.parametrize("digits", [9, 15, 16, 17, 25])
def test_decimals_near_the_middle_of_two_floats_are_rounded_once(tmp_path, digits):
    """Rounded to double first, and then to float, some of them would land on the wrong one."""
    odd = np.random.default_rng(0).integers(2**23, 2**24, 300) * 2 + 1
    texts = [f"{middle:.{digits}g}" for middle in (odd * 2.0**-26).tolist()]
    got = read_numbers(tmp_path, texts, np.float32)
    for text, value in zip(texts, got, strict=True):
        error = abs(Fraction(text) - Fraction(float(value)))
        for other in (np.nextafter(value, np.float32(-1)), np.nextafter(value, np.float32(1))):
            far = abs(Fraction(text) - Fraction(float(other)))
            assert error < far or (error == far and int(value.view(np.int32)) % 2 == 0), text


def test_odd_numbers(tmp_path):
    texts = ["0", "-0", ".5", "5.", "+1", "1E3", "1e-400", "-1e-400", "0" * 30 + "1", "0." + "0" * 400 + "1"]
    got = read_numbers(tmp_path, texts)
    assert got.tolist() == [float(text) for text in texts]
    assert np.signbit(got).tolist() == [text.startswith("-") for text in texts]
    for text in ("-", ".", "+-1", "1_0", "0x1", "1e", "1,5", "1e400", "-inf", "NaN"):
        with pytest.raises(FormatError, match="line 2: (not a number|the vector of 'w' is not finite)"):
            read_numbers(tmp_path, [text])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(tmp_path, threads):
    """Blocks are about 1 MB: this file has many, of lines that lie across their borders."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3_000, 101)).astype(np.float32)
    words = ["w" * int(n) + str(i) for i, n in enumerate(rng.integers(0, 50, 3_000))]
    save_word2vec_format(tmp_path / "v", words, vectors, threads=threads)
    got_words, got = load_word2vec_format(tmp_path / "v", threads=threads)
    assert got_words == words and same_bits(got, vectors)
    data = (tmp_path / "v").read_bytes().split(b"\n")
    data[2_900] = b"broken"
    with pytest.raises(FormatError, match="v: line 2901: expected a word and 101 numbers, got 1 fields"):
        load_word2vec_format(write(tmp_path / "v", b"\n".join(data)), threads=threads)


# ---- what else the readers take ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("binary", [False, True])
def test_compressed(tmp_path, suffix, binary):
    save_word2vec_format(tmp_path / f"v{suffix}", WORDS, VECTORS, binary=binary)
    assert b"the" not in (tmp_path / f"v{suffix}").read_bytes()[:4]
    words, vectors = load_word2vec_format((tmp_path / f"v{suffix}").rename(tmp_path / "v"), binary=binary)
    assert words == WORDS and same_bits(vectors, VECTORS)
    data = (tmp_path / "v").read_bytes()
    with pytest.raises(FormatError, match="v: the compressed data are damaged or incomplete"):
        load_word2vec_format(write(tmp_path / "v", data[:-6]), binary=binary)


def test_without_header(tmp_path):
    save_word2vec_format(tmp_path / "v", WORDS, VECTORS, header=False)
    assert (tmp_path / "v").read_bytes() == TEXT.partition(b"\n")[2]
    words, vectors = load_word2vec_format(tmp_path / "v", no_header=True)
    assert words == WORDS and same_bits(vectors, VECTORS)
    with pytest.raises(FormatError, match="v: line 1: expected a word and numbers, got 'word'"):
        load_word2vec_format(write(tmp_path / "v", b"word\n"), no_header=True)


@pytest.mark.parametrize("no_header", [False, True])
def test_words_with_spaces(tmp_path, no_header):
    """As in glove.840B: the last D fields are the vector."""
    body = b"the 1 2\n. . . 3 4\nat a@b.c\t5   6 \n"
    path = write(tmp_path / "v", (b"" if no_header else b"3 2\n") + body)
    words, vectors = load_word2vec_format(path, no_header=no_header)
    assert words == ["the", ". . .", "at a@b.c"] and vectors.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_encoding(tmp_path):
    path = write(tmp_path / "v", "1 1\nnaïve 1\n".encode("latin-1"))
    assert load_word2vec_format(path, encoding="latin-1")[0] == ["naïve"]
    with pytest.raises(FormatError, match="v: line 2: the word .* is not UTF-8 .byte 2 of it."):
        load_word2vec_format(path)
    with pytest.raises(ValueError, match="encoding: unknown encoding: klingon"):
        load_word2vec_format(path, encoding="klingon")


@pytest.mark.parametrize(
    ("data", "binary", "first"),
    [
        (b"4 1\na 1\nb x\nc 2 3\nd nan\n", False, "3 faults passed over, first line 3: not a number"),
        (b"9 1\na 1\n\xff 2\n 3\n", False, "3 faults passed over, first line 3: the word"),
        (b"1 1\na 1\nb 2\n", False, "1 faults passed over, first the header says 1 rows, but more data"),
        (b"3 1\n" + record("a", 1) + record("b", float("nan")) + b"\xff 1234", True, "2 faults .* first record 2 at"),
        (b"2 1\n" + record("a", 1) + b"b 12", True, "2 faults passed over, first record 2 at byte 10: truncated"),
    ],
)
def test_bad_rows_can_be_skipped(tmp_path, data, binary, first):
    path = write(tmp_path / "v", data)
    with pytest.warns(UserWarning, match=first):
        words, vectors = load_word2vec_format(path, binary=binary, bad_rows="skip")
    assert words == ["a"] and vectors.tolist() == [[1]]
    with pytest.raises(FormatError):
        load_word2vec_format(path, binary=binary)


def test_a_claim_of_many_rows_takes_no_memory(tmp_path):
    """Address space is limited to less than a tenth of what the header promises."""
    script = f"""
import resource
from w2v_ext.formats import load_word2vec_format
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (400 << 20),) * 2)
for name, binary in (("t", False), ("b", True)):
    try:
        load_word2vec_format({str(tmp_path)!r} + "/" + name, binary=binary, threads=1)
    except ValueError as error:
        print(error)
"""
    write(tmp_path / "t", b"1000000000000 1000\na " + b"1 " * 1000 + b"\n")
    write(tmp_path / "b", b"1000000000000 1000\na " + b"\0" * 4000)
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.count("the header says 1000000000000 rows, the file ends after 1") == 2, done


@pytest.mark.parametrize("newline", [False, True])
def test_record_newline(tmp_path, newline):
    save_word2vec_format(tmp_path / "v", WORDS, VECTORS, binary=True, record_newline=newline)
    assert (tmp_path / "v").read_bytes() == binary_bytes(b"\n" if newline else b"")


def test_progress(tmp_path):
    path = write(tmp_path / "v", TEXT)
    seen = []
    load_word2vec_format(path, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(TEXT), len(TEXT)) and seen == sorted(seen)
