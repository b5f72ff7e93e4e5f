"""The other formats: safetensors, directories; telling them apart; every path between them."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from w2v_ext import formats
from w2v_ext.files import FormatError
from w2v_ext.formats import FORMATS, load_vectors, save_vectors, sniff

WORDS = ["the", "naïve", "词"]
VECTORS = np.array([[0.1, -2.5], [1e-45, 3.4028235e38], [-0.0, 7.0]], dtype=np.float32)
COUNTS = np.array([9, 4, 1])
LOSSLESS = (
    "model",
    "word2vec-text",
    "word2vec-binary",
    "glove",
    "fasttext-vec",
    "safetensors",
    "static-embedding",
    "projector",
)
LOSSY = ("int8", "int8-symmetric", "pq", "low-rank")
HAVE_COUNTS = ("model", "safetensors", "projector", *LOSSY)


def same_bits(a, b):
    return a.dtype == b.dtype == np.float32 and a.shape == b.shape and a.tobytes() == b.tobytes()


# ---- all of them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [None, COUNTS])
@pytest.mark.parametrize("name", LOSSLESS)
def test_round_trip(tmp_path, name, counts):
    save_vectors(tmp_path / "v", WORDS, VECTORS, counts, name)
    assert sniff(tmp_path / "v").name == name.replace("fasttext-vec", "word2vec-text")
    table = load_vectors(tmp_path / "v")
    assert table.words == WORDS and same_bits(table.vectors, VECTORS)
    if counts is None or name not in HAVE_COUNTS:
        assert table.counts is None
    else:
        assert table.counts.dtype == np.int64 and table.counts.tolist() == counts.tolist()
    assert len(load_vectors(tmp_path / "v", name, limit=2).words) == 2
    assert load_vectors(tmp_path / "v", name, dtype=np.float64).vectors.dtype == np.float64


@pytest.mark.parametrize("name", LOSSY)
def test_lossy(tmp_path, name):
    vectors = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    save_vectors(tmp_path / "v", WORDS, vectors, COUNTS, name)
    assert sniff(tmp_path / "v").name == name
    table = load_vectors(tmp_path / "v")
    assert table.words == WORDS and table.counts.tolist() == COUNTS.tolist() and table.vectors.dtype == np.float32
    assert np.abs(table.vectors - vectors).max() < {"low-rank": 2}.get(name, 0.02)


def test_every_format_is_tested():
    assert {*LOSSLESS, *LOSSY, "fasttext-bin"} == set(FORMATS)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("v.txt", "word2vec-text"),
        ("v.vec", "fasttext-vec"),
        ("v.BIN", "word2vec-binary"),
        ("v.bin.gz", "word2vec-binary"),
        ("v.glove.txt.xz", "glove"),
        ("v.safetensors", "safetensors"),
        ("model", "model"),
    ],
)
def test_suffixes(file, name):
    assert formats.format_for_writing(file).name == name


@pytest.mark.parametrize(
    ("file", "name", "message"),
    [
        ("v.xyz", None, "v.xyz: the name does not tell the format: expected one of the suffixes .bin, "),
        ("v", "gensim", "format: expected one of model, word2vec-text, .* got 'gensim'"),
        ("v.gz", "safetensors", "v.gz: safetensors is not written compressed"),
    ],
)
def test_save_refuses(tmp_path, file, name, message):
    with pytest.raises(ValueError, match=message):
        save_vectors(tmp_path / file, WORDS, VECTORS, None, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*LOSSLESS, *LOSSY])
@pytest.mark.parametrize(
    ("words", "vectors", "counts", "message"),
    [
        (["a", "a"], [[1], [2]], None, "words: 'a' appears twice"),
        (["a", "b"], [[1], [np.inf]], None, "vectors: the vector of 'b' is not finite as float32"),
        (["a"], [[1], [2]], None, "words: expected 2 to match vectors, got 1"),
        (["a", "b"], [[1], [2]], [1, -1], "counts: expected whole numbers >= 0"),
        (["a", "\udc80"], [[1], [2]], None, "words: '\\\\udc80' cannot be written as UTF-8"),
    ],
)
def test_bad_tables_are_refused(tmp_path, name, words, vectors, counts, message):
    with pytest.raises(ValueError, match=message):
        save_vectors(tmp_path / "v", words, np.array(vectors), counts, name)
    assert not (tmp_path / "v").exists() or list((tmp_path / "v").iterdir()) == []


@pytest.mark.parametrize("word", ["new york", "a\tb", "a\nb"])
@pytest.mark.parametrize("name", LOSSLESS)
def test_words_that_only_some_formats_hold(tmp_path, name, word):
    holds = name in ("safetensors", "static-embedding") or (word == "new york" and name in ("model", "projector"))
    if holds:
        save_vectors(tmp_path / "v", [word], [[1]], None, name)
        assert load_vectors(tmp_path / "v").words == [word]
    else:
        with pytest.raises(ValueError, match="words: "):
            save_vectors(tmp_path / "v", [word], [[1]], None, name)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x04\x95abc", "a Python pickle or PyTorch file, which is never opened"),
        (b"PK\x03\x04 ...", "a Python pickle or PyTorch file, which is never opened"),
        (b"", "the file is empty"),
        (b"once upon a time\n", "in none of the formats that w2v_ext reads; it begins with 'once upon a time"),
    ],
)
def test_unknown_files(tmp_path, data, message):
    (tmp_path / "v").write_bytes(data)
    with pytest.raises(FormatError, match=f"v: {message}"):
        load_vectors(tmp_path / "v")


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_vectors(tmp_path / "none")
    with pytest.raises(FormatError, match="model.safetensors: no such file; a model directory has one"):
        load_vectors(tmp_path)


def test_text_and_binary_are_told_apart(tmp_path):
    """Whatever the numbers are; a binary vector whose bytes are all digits is the one that cannot be."""
    rng = np.random.default_rng(0)
    for dim in (1, 2, 3, 300):
        for scale in (1e-30, 1, 1e30):
            vectors = (rng.normal(size=(5, dim)) * scale).astype(np.float32)
            for name in ("word2vec-text", "word2vec-binary"):
                save_vectors(tmp_path / "v", list("12345"), vectors, None, name)
                assert sniff(tmp_path / "v").name == name


# ---- directories -------------------------------------------------------------------------------------------------


def test_sentence_transformers_loads_it(tmp_path):
    transformers = pytest.importorskip("sentence_transformers", reason="compares where it is installed")
    words, vectors = ["good", "film", "naïve"], np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    save_vectors(tmp_path / "v", words, vectors, None, "static-embedding")
    model = transformers.SentenceTransformer(str(tmp_path / "v"), device="cpu")
    sentences = model.encode(["Good film", "naïve", "unknown"])
    np.testing.assert_allclose(sentences[0], vectors[:2].mean(0), atol=1e-6)
    np.testing.assert_allclose(sentences[1:], [vectors[2], np.zeros(5)], atol=1e-6)
    model.save(str(tmp_path / "theirs"))
    table = load_vectors(tmp_path / "theirs")
    assert table.words == [*words, "[UNK]"] and same_bits(table.vectors[:3], vectors)


def test_static_embedding_unknown_word_and_case(tmp_path):
    save_vectors(tmp_path / "v", ["Good", "<unk>"], [[1], [2]], None, "static-embedding")
    tokenizer = json.loads((tmp_path / "v" / "tokenizer.json").read_text())
    assert tokenizer["model"]["unk_token"] == "<unk>" and tokenizer["model"]["vocab"] == {"Good": 0, "<unk>": 1}
    assert tokenizer["normalizer"] is None
    assert load_vectors(tmp_path / "v").words == ["Good", "<unk>"]


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("tokenizer.json", b"{", "tokenizer.json: not valid JSON"),
        ("tokenizer.json", b"[" * 100_000, "tokenizer.json: not valid JSON"),
        ("tokenizer.json", b"{}", "tokenizer.json: expected a Hugging Face tokenizer"),
        (
            "tokenizer.json",
            b'{"model": {"vocab": {"a": 7}}}',
            "tokenizer.json: 1 tokens, but model.safetensors has 4 rows",
        ),
        ("model.safetensors", b"junk", "model.safetensors: missing or damaged"),
        ("modules.json", b"[]", "modules.json: has no StaticEmbedding"),
        (
            "modules.json",
            b'[{"type": "StaticEmbedding", "path": "../.."}]',
            "modules.json: the path .* leads out of the",
        ),
    ],
)
def test_damaged_static_embedding(tmp_path, file, data, message):
    save_vectors(tmp_path / "v", WORDS, VECTORS, None, "static-embedding")
    (tmp_path / "v" / file).write_bytes(data)
    with pytest.raises(FormatError, match=message):
        load_vectors(tmp_path / "v")


def test_projector_files(tmp_path):
    save_vectors(tmp_path / "v", ["a b", "c"], [[1, 0.5], [2, 3]], [2, 1], "projector")
    assert (tmp_path / "v" / "tensors.tsv").read_bytes() == b"1\t0.5\n2\t3\n"
    assert (tmp_path / "v" / "metadata.tsv").read_bytes() == b"word\tcount\na b\t2\nc\t1\n"
    assert "tensors.tsv" in (tmp_path / "v" / "projector_config.pbtxt").read_text()


def test_projector_config_is_tensorboards(tmp_path):
    config = pytest.importorskip("tensorboard.plugins.projector", reason="needs tensorboard").ProjectorConfig()
    from google.protobuf import text_format

    save_vectors(tmp_path / "v", WORDS, VECTORS, None, "projector")
    text_format.Parse((tmp_path / "v" / "projector_config.pbtxt").read_text(), config)
    assert config.embeddings[0].metadata_path == "metadata.tsv"


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("tensors.tsv", b"1\t2\n3\n5\t6\n", "tensors.tsv: line 2: expected 2 numbers, got 1 fields"),
        ("tensors.tsv", b"1\t2\n3\t4\t5\n5\t6\n", "tensors.tsv: line 2: expected 2 numbers, got 3 fields"),
        ("tensors.tsv", b"1\t2\n3\tinf\n5\t6\n", "tensors.tsv: line 2: the vector is not finite"),
        ("tensors.tsv", b"1\t2\n", "metadata.tsv: 3 lines, but tensors.tsv has 1 rows"),
        ("metadata.tsv", b"a\nb\na\n", "metadata.tsv: line 3: the word 'a' comes twice"),
        ("metadata.tsv", b"a\n\xff\nc\n", "metadata.tsv: line 2: not utf-8"),
    ],
)
def test_damaged_projector(tmp_path, file, data, message):
    save_vectors(tmp_path / "v", WORDS, VECTORS, None, "projector")
    (tmp_path / "v" / file).write_bytes(data)
    with pytest.raises(FormatError, match=message):
        load_vectors(tmp_path / "v")


# ---- safetensors -------------------------------------------------------------------------------------------------


def tensors(**changes):
    good = {
        "vectors": torch.ones(2, 3),
        "words": torch.tensor(list(b"abc"), dtype=torch.uint8),
        "word_ends": torch.tensor([1, 3]),
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": None}, "has no tensor vectors"),
        ({"words": None}, "has no tensor words"),
        ({"vectors": torch.ones(3)}, r"vectors is torch.float32 of shape \(3,\), expected float"),
        ({"vectors": torch.ones(2, 3, dtype=torch.int32)}, "vectors is torch.int32"),
        ({"vectors": torch.full((2, 3), torch.nan)}, "row 0: the vector of 'a' is not finite"),
        ({"vectors": torch.ones(1, 3)}, "expected words .* and word_ends"),
        ({"word_ends": torch.tensor([1, 4])}, "word_ends does not rise to the 3 bytes of words"),
        ({"word_ends": torch.tensor([4, 3])}, "word_ends does not rise"),
        ({"words": torch.tensor(list(b"a\xff\xff"), dtype=torch.uint8)}, "is not UTF-8"),
        ({"words": torch.tensor(list(b"aa"), dtype=torch.uint8), "word_ends": torch.tensor([1, 2])}, "'a' comes twice"),
        ({"counts": torch.ones(2)}, "expected counts"),
    ],
)
def test_damaged_safetensors(tmp_path, changes, message):
    about = {"w2v_ext": json.dumps({"kind": "vectors", "version": 1})}
    save_file(tensors(), tmp_path / "v", about)
    assert load_vectors(tmp_path / "v").words == ["a", "bc"]
    save_file(tensors(**changes), tmp_path / "v", about)
    with pytest.raises(FormatError, match=message):
        load_vectors(tmp_path / "v")


def test_foreign_safetensors(tmp_path):
    save_file(tensors(), tmp_path / "v")
    with pytest.raises(FormatError, match="v: has no words: expected a file with words and vectors, got tensors"):
        load_vectors(tmp_path / "v")
    (tmp_path / "v").write_bytes((tmp_path / "v").read_bytes()[:-1])
    with pytest.raises(FormatError, match="v: damaged or truncated"):
        load_vectors(tmp_path / "v")
