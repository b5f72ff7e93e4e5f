"""The built-in corpus: its size, its determinism, and the contexts that plant the meaning."""

import time
from collections import Counter

import numpy as np
import pytest

from w2v_ext import synthetic
from w2v_ext.synthetic import (
    BUILTIN_ANALOGIES,
    BUILTIN_CLASSES,
    BUILTIN_PROBES,
    builtin_corpus_path,
    write_builtin_corpus,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "builtin.txt"
    start = time.perf_counter()
    write_builtin_corpus(path)
    return path, time.perf_counter() - start


@pytest.fixture(scope="module")
def counts(corpus):
    return Counter(corpus[0].read_text(encoding="utf-8").split())


def test_size(corpus, counts):
    lines = corpus[0].read_text(encoding="utf-8").split("\n")
    assert lines.pop() == "" and len(lines) == 100_000 and all(lines)
    assert 800_000 <= sum(counts.values()) <= 1_500_000
    assert 400 <= len(counts) <= 1000
    assert min(counts.values()) >= 50
    assert all(word.isascii() and word.isalpha() and word.islower() for word in counts)
    assert corpus[1] < 10  # 0.4 s where it was measured; this only catches a slip into a quadratic loop


def test_same_seed_same_bytes(tmp_path):
    for name, seed, sentences in (("a", 7, 9000), ("b", 7, 9000), ("c", 8, 9000)):
        write_builtin_corpus(tmp_path / name, seed=seed, sentences=sentences)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c
    assert a.count(b"\n") == 9000


def test_lists_agree(counts):
    words = [word for members in BUILTIN_CLASSES.values() for word in members]
    assert len(BUILTIN_CLASSES) >= 12 and len(set(words)) == len(words), "a word belongs to one class"
    assert set(words) <= set(counts)
    assert set(BUILTIN_PROBES) <= set(words) and 4 <= len(BUILTIN_PROBES) <= 6
    assert ("man", "woman", "king", "queen") in BUILTIN_ANALOGIES
    assert ("france", "paris", "italy", "rome") in BUILTIN_ANALOGIES
    assert len(set(BUILTIN_ANALOGIES)) == len(BUILTIN_ANALOGIES) == 4 * 14 * 13
    assert {word for analogy in BUILTIN_ANALOGIES for word in analogy} <= set(words)


def test_class_words_stand_only_where_the_templates_put_them():
    words = {word for members in BUILTIN_CLASSES.values() for word in members}
    fixed = {word for group in synthetic._GROUPS for row in group.companions for word in row}
    templates = [template for group in synthetic._GROUPS for template in group.templates]
    for template in [*templates, *synthetic._OPENINGS, *synthetic._ENDINGS]:
        fixed |= set(template.replace("|", " ").split())
    assert not words & fixed


def test_contexts_carry_the_classes_and_the_analogies(corpus):
    """Without training: rows of the centred log co-occurrence matrix already have the planted neighbours."""
    lines = [line.split() for line in corpus[0].read_text(encoding="utf-8").split("\n")[:40_000]]
    vocabulary = sorted({word for line in lines for word in line})
    index = {word: i for i, word in enumerate(vocabulary)}
    together = np.zeros((len(vocabulary), len(vocabulary)))
    for line in lines:
        ids = np.array([index[word] for word in line])
        for distance in range(1, 6):
            np.add.at(together, (ids[:-distance], ids[distance:]), 1.0 / distance)
    together += together.T
    expected = together.sum(1, keepdims=True) * together.sum(0, keepdims=True) / together.sum()
    rows = np.log(np.maximum(together / expected, 1.0))  # (V, V) positive pointwise mutual information
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)

    def nearest(vector, without, n):
        scores = rows @ vector
        scores[[index[word] for word in without]] = -np.inf
        return [vocabulary[i] for i in np.argsort(-scores)[:n]]

    right = [
        neighbour in members
        for members in BUILTIN_CLASSES.values()
        for word in members
        for neighbour in nearest(rows[index[word]], [word], 5)
    ]
    assert np.mean(right) >= 0.9
    asked = BUILTIN_ANALOGIES[::7]
    answers = [nearest(rows[index[b]] - rows[index[a]] + rows[index[c]], [a, b, c], 1)[0] for a, b, c, _ in asked]
    assert np.mean([answer == d for answer, (_, _, _, d) in zip(answers, asked, strict=True)]) >= 0.8


def test_cached_file(tmp_path, monkeypatch, corpus):
    monkeypatch.setenv("W2V_EXT_CACHE", str(tmp_path / "a"))
    path = builtin_corpus_path()
    assert path.read_bytes() == corpus[0].read_bytes()
    assert list((tmp_path / "a" / "builtin").iterdir()) == [path]
    written = path.stat().st_mtime_ns
    assert builtin_corpus_path() == path and path.stat().st_mtime_ns == written

    monkeypatch.setattr(synthetic, "_FAVOURITE", 0.6)  # another recipe is another file
    assert builtin_corpus_path() != path

    def fail(path):
        path.write_text("half")
        raise OSError("full")

    monkeypatch.setattr(synthetic, "write_builtin_corpus", fail)
    with pytest.raises(OSError, match="full"):
        builtin_corpus_path(tmp_path / "b")
    assert list((tmp_path / "b" / "builtin").iterdir()) == []


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="sentences: expected a positive number, got 0"):
        write_builtin_corpus(tmp_path / "f", sentences=0)
    with pytest.raises(OSError, match="missing"):
        write_builtin_corpus(tmp_path / "missing" / "f", sentences=1)
    assert list(tmp_path.iterdir()) == []
