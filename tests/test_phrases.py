"""Phrases: scores, phrases and text are gensim's; counting is exact with any memory and any number of threads."""

import collections
import gzip
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v_ext import CorpusOptions, _text, corpus_from_sequences, phrases, prepare_corpus
from w2v_ext.phrases import Phrase, PhraseOptions, find_phrases, join_corpus, join_tokens

logging.getLogger("gensim").setLevel(logging.ERROR)


def make_text(rng, sentences=4000):
    """Sentences of Zipf-distributed words, with some that go together."""
    planted = [["new", "york"], ["new", "york", "city"], ["los", "angeles"], ["ad", "hoc"], ["very", "very", "very"]]
    lines = []
    for _ in range(sentences):
        words = []
        while len(words) < rng.integers(1, 20):
            if rng.random() < 0.05:
                words += planted[rng.integers(len(planted))]
            else:
                words.append(f"w{min(rng.zipf(1.3), 500)}")
        lines.append(words)
    return lines


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    lines = make_text(np.random.default_rng(1))
    path.write_text("\n".join(" ".join(line) for line in lines) + "\n")
    return path, lines


def gensim_phrases(lines, options):
    from gensim.models.phrases import Phrases

    return Phrases(
        lines,
        min_count=options.min_count,
        threshold=options.threshold,
        scoring=options.scoring,
        delimiter=options.delimiter,
    )


@pytest.mark.parametrize(
    "options",
    [
        PhraseOptions(),
        PhraseOptions(threshold=0.5, min_count=1, delimiter="+"),
        PhraseOptions(threshold=0.3, min_count=5, scoring="npmi"),
        PhraseOptions(threshold=-1.0, min_count=2, scoring="npmi"),
        PhraseOptions(threshold=1.0, passes=2),
        PhraseOptions(threshold=0.2, scoring="npmi", passes=3),
    ],
    ids=str,
)
def test_scores_phrases_and_text_are_gensims(text, options, tmp_path):
    path, lines = text
    expected_lines, expected_scores, expected_counts = lines, {}, {}
    for _ in range(options.passes):
        model = gensim_phrases(expected_lines, options)
        found = model.export_phrases()
        expected_scores.update(found)
        expected_counts.update({phrase: model.vocab[phrase] for phrase in found})
        expected_lines = [model[line] for line in expected_lines]
    assert len(expected_scores) > 3
    out = tmp_path / "out.txt"
    with prepare_corpus(path, CorpusOptions(min_count=1), cache_dir=tmp_path) as corpus:
        found = join_corpus(corpus, out, options, threads=2, directory=tmp_path)
    assert out.read_text() == "".join(" ".join(line) + "\n" for line in expected_lines)
    if options.passes > 1:  # gensim then counts the word very_very and its two words together, and lists neither
        return
    assert {phrase.text: phrase.count for phrase in found} == expected_counts
    for phrase in found:
        assert phrase.score == pytest.approx(expected_scores[phrase.text], rel=1e-12)
    scores = [phrase.score for phrase in found]
    assert scores == sorted(scores, reverse=True)


def word2phrase(lines, threshold, min_count):
    """One pass of word2vec's program: the lines, and the scores of the pairs that were joined."""
    counts = collections.Counter(word for line in lines for word in line)
    pairs = collections.Counter(pair for line in lines for pair in zip(line, line[1:], strict=False))
    all_words = sum(len(line) for line in lines)
    joined, scores = [], {}
    for line in lines:
        text, before = "", None  # before: the word, if it may still be joined
        for word in line:
            score = 0.0
            if before is not None and min(counts[before], counts[word], pairs[before, word]) >= min_count:
                score = (pairs[before, word] - min_count) / (counts[before] * counts[word]) * all_words
            if score > threshold:
                scores[f"{before}_{word}"] = score
                text, before = f"{text}_{word}", None
            else:
                text, before = f"{text} {word}", word
        joined.append(text.split())
    return joined, scores


@pytest.mark.parametrize(("threshold", "min_count", "passes"), [(100.0, 5, 1), (3.0, 1, 1), (20.0, 10, 2)])
def test_word2phrase_is_word2vecs(text, tmp_path, threshold, min_count, passes):
    path, expected = text
    scores = {}
    for _ in range(passes):
        expected, found = word2phrase(expected, threshold, min_count)
        scores |= found
    assert scores
    options = PhraseOptions(threshold, min_count, "word2phrase", passes)
    out = tmp_path / "out.txt"
    with prepare_corpus(path, CorpusOptions(min_count=1), cache_dir=tmp_path) as corpus:
        found = join_corpus(corpus, out, options, threads=2, directory=tmp_path)
    assert out.read_text() == "".join(" ".join(line) + "\n" for line in expected)
    assert scores.keys() <= {phrase.text for phrase in found}  # a phrase may always lose its word to another one
    for phrase in found:
        assert phrase.text not in scores or phrase.score == pytest.approx(scores[phrase.text], rel=1e-12)
    arguments = ["--corpus", str(path), "--out", str(tmp_path / "by-command"), "--cache-dir", str(tmp_path)]
    arguments += ["--scoring", "word2phrase", "--min-count", str(min_count), "--passes", str(passes)]
    arguments += [] if threshold == 100 else ["--threshold", str(threshold)]
    assert phrases.main(arguments) == 0
    assert (tmp_path / "by-command").read_bytes() == out.read_bytes()


def count_pairs(ids):
    pairs = zip(ids.tolist(), ids[1:].tolist(), strict=False)
    return collections.Counter((a, b) for a, b in pairs if a >= 0 and b >= 0)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(-1, 6), min_size=1, max_size=80).map(lambda ids: np.array([*ids, -1], np.int32)),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_counts_are_exact(ids, min_count, threads):
    found = _text.count_bigrams(ids, vocab_size=7, min_count=min_count, threads=threads, memory=1 << 16)
    expected = count_pairs(ids)
    frequent = sorted((a, b, n) for (a, b), n in expected.items() if n >= min_count)
    assert [tuple(row) for row in found["frequent"].tolist()] == frequent
    assert found["distinct"] == len(expected)
    assert found["words"].tolist() == np.bincount(ids[ids >= 0], minlength=7).tolist()


@pytest.mark.parametrize("threads", [1, 3])
def test_little_memory_costs_readings_only(threads):
    rng = np.random.default_rng(4)
    ids = np.append(rng.integers(0, 300, 60_000), -1).astype(np.int32)
    expected = count_pairs(ids)
    found = _text.count_bigrams(ids, vocab_size=300, min_count=2, threads=threads, memory=1 << 16)
    assert found["readings"] > 10
    assert found["distinct"] == len(expected)
    frequent = {(a, b): n for a, b, n in found["frequent"].tolist()}
    assert frequent == {pair: n for pair, n in expected.items() if n >= 2}
    assert _text.count_bigrams(ids, vocab_size=300, min_count=2, threads=1, memory=1 << 30)["readings"] == 1


def test_a_word_is_joined_once_and_not_over_the_end_of_a_sentence(tmp_path):
    sentences = [["a", "b"], ["b", "a", "b", "a"], ["a", "a", "a"], ["a"], ["b"]]
    joined = {("a", "b"): "ab", ("b", "a"): "ba", ("a", "a"): "aa"}
    expected = [["ab"], ["ba", "ba"], ["aa", "a"], ["a"], ["b"]]
    assert [join_tokens(sentence, joined) for sentence in sentences] == expected
    corpus = corpus_from_sequences(sentences)
    words = corpus.vocab.words
    a, b = words.index("a"), words.index("b")
    pairs = np.array([[a, b, 2], [b, a, 3], [a, a, 4]])
    _text.join_bigrams(corpus.ids, vocab_size=2, pairs=pairs, path=str(tmp_path / "ids"))
    _text.write_lines(
        np.fromfile(tmp_path / "ids", "<i4"), words=[*words, "ab", "ba", "aa"], path=str(tmp_path / "text")
    )
    assert (tmp_path / "text").read_text() == "".join(" ".join(line) + "\n" for line in expected)
    corpus.close()


def test_a_phrase_that_is_a_word_already_is_that_word():
    corpus = corpus_from_sequences([["new", "york"]] * 20 + [["new_york", "x"]] * 3 + [["y", "z", "q"]] * 40)
    found = find_phrases(corpus.ids, corpus.vocab.words, PhraseOptions(threshold=0.1))
    number = found.words.index("new_york")
    assert found.words.count("new_york") == 1
    assert number in found.pairs[:, 2]
    assert found.join(["in", "new", "york", "new"]) == ["in", "new_york", "new"]
    corpus.close()


def test_nothing_found_leaves_the_text(tmp_path):
    corpus = corpus_from_sequences([["a", "b", "c"], ["c", "b", "a"]])
    assert join_corpus(corpus, tmp_path / "out.txt", PhraseOptions(passes=3)) == []
    assert (tmp_path / "out.txt").read_text() == "a b c\nc b a\n"
    corpus.close()


def test_the_command(text, tmp_path, capsys):
    path, lines = text
    packed = tmp_path / "text.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    out, table = tmp_path / "out.txt", tmp_path / "phrases.tsv"
    arguments = ["--corpus", str(packed), "--out", str(out), "--table", str(table), "--cache-dir", str(tmp_path)]
    assert phrases.main([*arguments, "--threshold", "1", "--passes", "2", "--top", "3"]) == 0
    shown = capsys.readouterr().out
    model = gensim_phrases(lines, PhraseOptions(threshold=1.0))
    once = [model[line] for line in lines]
    twice = gensim_phrases(once, PhraseOptions(threshold=1.0))
    assert out.read_text() == "".join(" ".join(twice[line]) + "\n" for line in once)
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    assert {row[0] for row in rows} >= set(model.export_phrases()) | {"new_york_city"}
    assert all(row[0] in shown for row in rows[:3]) and rows[3][0] not in shown.split()
    assert not list((tmp_path / "phrases").iterdir())

    assert phrases.main(arguments) == 2
    assert f"out: {out} is there already; --force overwrites it" in capsys.readouterr().err
    assert phrases.main([*arguments, "--force"]) == 0
    assert phrases.main(["--corpus", str(path), "--out", str(path), "--force"]) == 2
    assert f"out: {path} is what is read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 0.0}, "threshold: expected a number > 0, got 0.0"),
        ({"threshold": -1.0, "scoring": "word2phrase"}, "threshold: expected a number > 0, got -1.0"),
        ({"threshold": 1.5, "scoring": "npmi"}, "threshold: expected a number from -1 to 1 with npmi, got 1.5"),
        ({"scoring": "pmi"}, "scoring: expected one of default, word2phrase, npmi, got 'pmi'"),
        ({"min_count": 0}, "min_count: expected an integer from 1 to .*, got 0"),
        ({"passes": 0}, "passes: expected an integer from 1 to 16, got 0"),
        ({"delimiter": " "}, "delimiter: expected characters other than white space, got ' '"),
        ({"delimiter": ""}, "delimiter: expected characters other than white space, got ''"),
    ],
)
def test_bad_options(change, message):
    with pytest.raises(ValueError, match=message):
        PhraseOptions(**change)


def test_bad_ids_and_arguments(tmp_path):
    with pytest.raises(IndexError, match="ids: word 7 at position 1 is out of range"):
        find_phrases(np.array([0, 7, -1], np.int32), ["a", "b"])
    with pytest.raises(ValueError, match="memory: expected at least 65,536 bytes, got 5"):
        find_phrases(np.array([0, 1, -1], np.int32), ["a", "b"], memory=5)
    with pytest.raises(ValueError, match="pairs: expected words of the vocabulary"):
        _text.join_bigrams(
            np.array([0, -1], np.int32), vocab_size=1, pairs=np.array([[0, 5, 6]]), path=str(tmp_path / "x")
        )
    assert Phrase("a_b", 3, 1.5).text == "a_b"


def test_standard_output_is_for_the_report(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t").write_text("a b\n")
    assert phrases.main(["--corpus", "t", "--out", "-"]) == 2
    assert "out: expected the name of a file, got '-'" in capsys.readouterr().err
    assert not (tmp_path / "-").exists()
