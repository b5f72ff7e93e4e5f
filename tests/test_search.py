"""Search by meaning: vectors checked against the formulas, a small ground truth, files, the command."""

import gzip
import io
import json
import math

import numpy as np
import pytest
from safetensors.numpy import load_file

from w2v_ext import documents
from w2v_ext.files import FormatError
from w2v_ext.keyedvectors import KeyedVectors
from w2v_ext.search import DocumentIndex, DocumentOptions, build_index, main
from w2v_ext.sources import CorpusError

TOPICS = {
    "sea": "ship wave fish sail boat tide shore net".split(),
    "sky": "cloud bird wing wind rain sun star moon".split(),
    "kitchen": "pan salt bread oven spoon soup cook plate".split(),
}
COMMON = "the of and a".split()


@pytest.fixture(scope="module")
def kv():
    """Words of a topic lie together; common words lie in a direction of their own."""
    rng = np.random.default_rng(0)
    words, rows = [*COMMON], [3 * np.eye(20)[0] + 0.1 * rng.normal(size=20) for _ in COMMON]
    for axis, topic in enumerate(TOPICS.values(), 1):
        words += topic
        rows += [np.eye(20)[axis] + 0.5 * np.eye(20)[0] + 0.15 * rng.normal(size=20) for _ in topic]
    return KeyedVectors(words, np.array(rows), range(len(words), 0, -1))


@pytest.fixture(scope="module")
def texts():
    """One topic for each document, four of its words among many common ones."""
    rng = np.random.default_rng(1)
    names = rng.choice(list(TOPICS), 90)
    lines = []
    for name in names:
        words = [*rng.choice(TOPICS[name], 4), *rng.choice(COMMON, 10)]
        lines.append(" ".join(rng.permutation(words)))
    return names.tolist(), lines


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("weighting", ["mean", "tfidf", "sif"])
def test_finds_the_topic(kv, texts, tmp_path, weighting):
    names, lines = texts
    index = build_index(write(tmp_path / "d", lines), kv, tmp_path / "index", DocumentOptions(weighting=weighting))
    assert len(index) == 90
    found = index.search_batch([" ".join(words[:2]) for words in TOPICS.values()], k=20)
    for topic, hits in zip(TOPICS, found, strict=True):
        right = np.mean([names[hit.document] == topic for hit in hits])
        assert right == 1 if weighting == "sif" else right > 0.7
        assert all(hit.text == lines[hit.document] for hit in hits)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert index.search(" ".join(TOPICS["sky"][:2]), 20) == found[1]


LINES = ["ship the Wave", "", "nothing known here", "the the of", "soup soup, ship; WAVE!", "ship"]


def plain_vectors(kv, options):
    """The formulas of `DocumentOptions`, word by word."""
    tokens = [line.lower().replace(",", "").replace(";", "").replace("!", "").split() for line in LINES]
    tokens = [[word for word in line if word in kv] for line in tokens]
    every = [word for line in tokens for word in line]

    def weight(word):
        if options.weighting == "tfidf":
            return math.log((1 + len(LINES)) / (1 + sum(word in line for line in tokens))) + 1
        return options.sif_a / (options.sif_a + every.count(word) / len(every)) if options.weighting == "sif" else 1.0

    rows = np.zeros((len(LINES), kv.vector_size))
    for row, line in zip(rows, tokens, strict=True):
        for word in line:
            row += weight(word) * kv[word] / len(line)
    basis = np.linalg.svd(rows)[2][: options.num_common]
    rows -= rows @ basis.T @ basis
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, where=norms > 1e-12, out=np.zeros_like(rows))


@pytest.mark.parametrize("batch", [1, 4, 1 << 20])
@pytest.mark.parametrize(
    "options",
    [
        {"weighting": "mean"},
        {"weighting": "tfidf"},
        {"weighting": "sif", "sif_a": 0.1},
        {"weighting": "mean", "common": 2},
    ],
)
def test_vectors_follow_the_formulas(kv, tmp_path, monkeypatch, options, batch):
    monkeypatch.setattr(documents, "_BATCH", batch)
    options = DocumentOptions(**options)
    index = build_index(write(tmp_path / "d", LINES), kv, tmp_path / "index", options)
    np.testing.assert_allclose(index.vectors, plain_vectors(kv, options), atol=1e-5)
    np.testing.assert_allclose(index.embed(LINES), index.vectors, atol=1e-6)
    assert [index.text(i) for i in range(6)] == LINES
    assert index.search("Ship! wave", 1)[0].document in (0, 4, 5)
    assert index.search("unheard words") == []
    assert index.embed([]).shape == (0, 20)
    assert len(index.search("ship", 100)) == 6
    with pytest.raises(IndexError, match="document: expected 0 <= number < 6, got 6"):
        index.text(6)
    with pytest.raises(ValueError, match="k: expected a number >= 1, got 0"):
        index.search("ship", 0)


def test_sources(kv, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.gz").write_bytes(gzip.compress(b"ship\r\nwave"))
    write(folder / "b.txt", ["soup", "oven"])
    index = build_index(folder, kv, tmp_path / "index")
    assert [index.text(i) for i in range(len(index))] == ["ship", "wave", "soup", "oven"]
    index = build_index(folder, kv, tmp_path / "index", DocumentOptions(unit="file"))  # in place of the one there
    assert [index.text(i) for i in range(len(index))] == ["ship wave", "soup oven"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"moon\nstar")))
    index = build_index("-", kv, tmp_path / "index")
    assert [index.search(word, 1)[0].text for word in ("moon", "star")] == ["moon", "star"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "index"]
    assert sorted(p.name for p in (tmp_path / "index").iterdir()) == [
        "documents.safetensors",
        "index.json",
        "texts.bin",
        "vocab.tsv",
        "words.safetensors",
    ]
    assert load_file(tmp_path / "index" / "documents.safetensors")["offsets"].tolist() == [0, 4, 8]


@pytest.mark.parametrize("tokenizer", ["char", "jieba"])
def test_chinese(tmp_path, tokenizer):
    if tokenizer == "jieba":
        pytest.importorskip("jieba", reason="needs jieba")
    words = ["我", "鱼", "海", "船", "喜欢", "大海", "面包", "汤", "厨房", "喜", "欢"]
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(words), 8))
    vectors[[1, 2, 3, 5]] += 4 * np.eye(8)[0]
    vectors[[6, 7, 8]] += 4 * np.eye(8)[1]
    kv = KeyedVectors(words, vectors)
    lines = ["我喜欢大海", "面包，汤。" * 400_000 if tokenizer == "char" else "面包，汤。厨房", "船和鱼"]
    options = DocumentOptions(weighting="mean", tokenizer=tokenizer)
    index = build_index(write(tmp_path / "d", lines), kv, tmp_path / "index", options)
    assert [index.text(i) for i in range(len(index))] == lines
    assert index.search("海鱼" if tokenizer == "char" else "大海", 1)[0].document in (0, 2)
    assert index.search("汤", 1)[0].document == 1


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda kv, p: DocumentOptions(weighting="bm25"), ValueError, "weighting: .* mean, tfidf, sif, got 'bm25'"),
        (lambda kv, p: DocumentOptions(tokenizer="x"), ValueError, "tokenizer: expected one of"),
        (lambda kv, p: DocumentOptions(lowercase="x"), ValueError, "lowercase: expected True or False, got 'x'"),
        (lambda kv, p: DocumentOptions(sif_a=0), ValueError, "sif_a: expected a finite number > 0, got 0"),
        (lambda kv, p: DocumentOptions(common=-1), ValueError, "common: expected None or a whole number"),
        (lambda kv, p: build_index(p / "none", kv, p / "i"), FileNotFoundError, "none"),
        (lambda kv, p: build_index(p / "bad", kv, p / "i"), CorpusError, "bad: document 2: not UTF-8 at byte 1 of it"),
        (
            lambda kv, p: build_index(p / "d", kv, p),
            ValueError,
            "directory: .* not an index: it will not be",
        ),
        (lambda kv, p: DocumentIndex(p / "none"), FormatError, "none: no index.json"),
    ],
)
def test_errors(kv, tmp_path, call, kind, message):
    write(tmp_path / "d", ["ship"])
    (tmp_path / "bad").write_bytes(b"ship\ns\xffa\n")
    with pytest.raises(kind, match=message):
        call(kv, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad", "d"]  # nothing half-written
    options = DocumentOptions(errors="replace")
    assert build_index(tmp_path / "bad", kv, tmp_path / "i", options).text(1) == "s\ufffda"


def test_a_failed_build_leaves_the_old_index(kv, tmp_path):
    build_index(write(tmp_path / "d", ["ship", "wave"]), kv, tmp_path / "index")
    (tmp_path / "bad").write_bytes(b"ship\n\xff\n")
    with pytest.raises(CorpusError):
        build_index(tmp_path / "bad", kv, tmp_path / "index")
    assert len(DocumentIndex(tmp_path / "index")) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad", "d", "index"]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("texts.bin", lambda data: data[:-1], "texts.bin: expected 8 bytes: damaged"),
        ("documents.safetensors", lambda data: data[:-4], "damaged or truncated"),
        ("words.safetensors", lambda data: data[:100], "damaged or truncated"),
        ("vocab.tsv", lambda data: data[:-9], "damaged"),
        ("index.json", lambda data: b"{", "damaged"),
        ("index.json", lambda data: b'{"version": 1}', "index.json: damaged"),
        ("index.json", lambda data: data.replace(b'"version": 1', b'"version": 9'), "expected version 1"),
    ],
)
def test_damaged_indices(kv, tmp_path, name, damage, message):
    build_index(write(tmp_path / "d", ["ship", "wave"]), kv, tmp_path / "index")
    path = tmp_path / "index" / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FormatError, match=message):
        DocumentIndex(tmp_path / "index")


def test_command(kv, texts, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kv.save("model")
    write(tmp_path / "d.txt", texts[1])
    assert main(["index", "--vectors", "model", "--documents", "d.txt", "--out", "index"]) == 0
    assert "90 documents, sif, dim 20; saved to index" in capsys.readouterr().out
    assert main(["query", "index", "ship wave", "xyz", "-k", "2", "--width", "10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ship wave" and lines[-1] == "xyz  (no known word)" and len(lines) == 4
    assert lines[1].endswith("…")
    monkeypatch.setattr("sys.stdin", io.StringIO("bread\nmoon\n"))
    assert main(["query", "index", "-", "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [a["query"] for a in answers] == ["bread", "moon"]
    assert [set(hit) for hit in answers[0]["hits"]] == [{"document", "score", "text"}] * 5
    assert main(["query", "none", "ship"]) == 2
    assert capsys.readouterr().err.startswith("error: none: no index.json: not an index")
    assert main(["query", "index"]) == 2
    assert "query: expected at least one text, or -" in capsys.readouterr().err
    assert main(["index", "--vectors", "none", "--documents", "d.txt", "--out", "index"]) == 2
