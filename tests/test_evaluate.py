"""Evaluation: gensim's figures, tables computed by hand, and ``python -m w2v_ext.evaluate``."""

import gzip
import json
import math

import numpy as np
import pytest

import w2v_ext
from w2v_ext.correlation import interval, pearson, ranks, spearman
from w2v_ext.evaluate import (
    evaluate_clusters,
    evaluate_outliers,
    evaluate_word_analogies,
    evaluate_word_pairs,
    main,
    read_groups,
    read_outliers,
)
from w2v_ext.keyedvectors import KeyedVectors

# ---- correlation -------------------------------------------------------------------------------------------------


def test_correlations_by_hand():
    assert ranks([10, 30, 20, 30]).tolist() == [1, 3.5, 2, 3.5]
    assert pearson([1, 2, 3], [1, 2, 4]).statistic == pytest.approx(3 / math.sqrt(2 * 42 / 9))
    assert pearson([0, 1], [5, 3]) == pytest.approx((-1, 1))
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1000]).statistic == pytest.approx(1)
    assert all(map(math.isnan, pearson([1, 1, 1], [1, 2, 3])))
    with pytest.raises(ValueError, match=r"x, y: expected two samples of one shape \(n,\) with n >= 2, got \(1,\)"):
        pearson([1], [1])


def test_intervals():
    low, high = interval(0.5, 103)  # atanh(0.5) = 0.549306, 1.959964 / 10 on either side
    assert (low, high) == pytest.approx((math.tanh(0.549306 - 0.1959964), math.tanh(0.549306 + 0.1959964)), abs=1e-6)
    low_ranks, high_ranks = interval(0.5, 103, of_ranks=True)  # wider by sqrt(1 + 0.25 / 2)
    assert math.atanh(high_ranks) - 0.549306 == pytest.approx(0.1959964 * math.sqrt(1.125), abs=1e-6)
    assert low_ranks < low < high < high_ranks
    assert interval(0.5, 3) == interval(math.nan, 50) == (-1, 1)
    assert interval(1.0, 50) == (1, 1)
    with pytest.raises(ValueError, match="confidence: expected a number between 0 and 1, got 95"):
        interval(0.5, 50, 95)


def test_correlations_as_scipy():
    stats = pytest.importorskip("scipy.stats", reason="compares with SciPy where it is installed")
    rng = np.random.default_rng(0)
    for i in range(300):
        n = int(rng.integers(5, 1000))
        x = rng.normal(size=n)
        y = x * rng.uniform(-2, 2) + rng.normal(size=n) * rng.uniform(0, 5)
        x = np.round(x * 2) if i % 2 else x  # ties
        if np.ptp(x) == 0:
            continue
        for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
            got, want = ours(x, y), theirs(x, y)
            assert got.statistic == pytest.approx(want.statistic, abs=1e-12)
            assert got.pvalue == pytest.approx(want.pvalue, rel=1e-9, abs=1e-250)
        assert interval(pearson(x, y).statistic, n) == pytest.approx(stats.pearsonr(x, y).confidence_interval())


# ---- gensim ------------------------------------------------------------------------------------------------------


def both(words, vectors, dtype=np.float32):
    gensim = pytest.importorskip("gensim.models", reason="compares with gensim where it is installed")
    theirs = gensim.KeyedVectors(vectors.shape[1], dtype=dtype)
    theirs.add_vectors(words, vectors)
    return KeyedVectors(words, vectors), theirs


def assert_same_evaluation(ours, theirs, pairs=(), analogies=(), **options):
    for path in pairs:
        want, got = theirs.evaluate_word_pairs(path, **options), ours.evaluate_word_pairs(path, **options)
        for mine, yours in zip(got[:2], want[:2], strict=True):
            assert mine.statistic == mine[0] == pytest.approx(yours[0], abs=1e-6)
            assert mine.pvalue == mine[1] == pytest.approx(yours[1], rel=1e-3, abs=1e-6)
        assert got[2] == pytest.approx(want[2])
    for path in analogies:
        want, got = theirs.evaluate_word_analogies(path, **options), ours.evaluate_word_analogies(path, **options)
        assert got == want


OPTIONS = [
    {},
    {"case_insensitive": False},
    {"dummy4unknown": True},
    {"restrict_vocab": 40},
    {"restrict_vocab": 40, "dummy4unknown": True, "case_insensitive": False},
    {"restrict_vocab": 12, "dummy4unknown": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_small_sets_as_gensim(tmp_path, options):
    rng = np.random.default_rng(0)
    bare = [f"w{i}" for i in range(60)]
    words = [*bare[:30], *(word.upper() for word in bare[:25]), *bare[30:]]  # some words in two spellings
    vectors = rng.normal(size=(len(words), 3)).astype(np.float32)  # few dimensions: case variants get in the way
    vectors[30:50] = vectors[:20] + 0.01
    ours, theirs = both(words, vectors, np.float64)
    some = lambda n: rng.choice([*words, "unknown"], n).tolist()  # noqa: E731
    pairs = tmp_path / "pairs.tsv"
    lines = ["# a comment", "word1\tword2\tscore", "", "too\tfew"]
    seen = set()
    for score in rng.random(200):
        first, second = some(2)
        # Equal similarities differ in their last digit for gensim (a word and itself, a pair turned round), which
        # decides ranks; here they are equal.
        if len(pair := frozenset({first.upper(), second.upper()})) == 2 and pair not in seen:
            seen.add(pair)
            lines.append(f"{first}\t{second}\t{score:.2f}")
    pairs.write_text("\n".join(lines) + "\n")
    questions = tmp_path / "questions.txt"
    lines = [": first", *(" ".join(some(4)) for _ in range(200)), "", "three words only", ": empty", ": second"]
    lines += [" ".join(some(4)) for _ in range(200)]
    lines += [f"{a} {b} {c} {b}" for a, b, c in (some(3) for _ in range(100))]  # the answer is a word of the question
    questions.write_text("\n".join(lines))
    assert_same_evaluation(ours, theirs, [pairs], [questions], **options)


@pytest.fixture(scope="session")
def imdb_vectors(tmp_path_factory):
    from conftest import SHARED_DATA

    if not SHARED_DATA.is_dir():
        pytest.skip("needs the folder of real corpora beside the project (../shared/data)")
    corpus = w2v_ext.prepare_corpus(
        SHARED_DATA / "imdb.txt.xz", w2v_ext.CorpusOptions(min_count=20), cache_dir=tmp_path_factory.mktemp("corpus")
    )
    kv = w2v_ext.Trainer(corpus, w2v_ext.TrainConfig(dim=50, epochs=1, threads=1)).fit().keyed_vectors()
    return kv, SHARED_DATA / "eval"


def test_real_sets_as_gensim(imdb_vectors):
    kv, folder = imdb_vectors
    ours, theirs = both(kv.index_to_key, kv.vectors)
    pairs = [folder / "EN-WS-353-ALL.txt", folder / "EN-SIMLEX-999.txt"]
    for options in OPTIONS[:3]:
        assert_same_evaluation(ours, theirs, pairs, **options)
    assert_same_evaluation(ours, theirs, analogies=[folder / "questions-words.txt"], restrict_vocab=3000)
    assert ours.evaluate_word_pairs(pairs[0])[1].statistic > 0.1  # it has learnt something


def test_analogies_of_all_sections_as_gensim(imdb_vectors, tmp_path):
    kv, folder = imdb_vectors
    ours, theirs = both(kv.index_to_key, kv.vectors)
    lines = (folder / "questions-words.txt").read_text().splitlines()
    some = tmp_path / "questions.txt"
    some.write_text("\n".join(line for i, line in enumerate(lines) if line[0] == ":" or i % 5 == 0))
    assert_same_evaluation(ours, theirs, analogies=[some], dummy4unknown=True)


# ---- by hand -----------------------------------------------------------------------------------------------------

WORDS = ["man", "woman", "king", "queen", "apple", "pear", "King"]
VECTORS = [[1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1], [-1, 0.1, 0], [-1, 0, 0.1], [0, 0, 1]]


@pytest.fixture
def kv():
    return KeyedVectors(WORDS, np.array(VECTORS), [7, 6, 5, 4, 3, 2, 1])


def write(path, text):
    path.write_text(text)
    return path


def test_pairs_by_hand(kv, tmp_path):
    path = tmp_path / "pairs.gz"
    path.write_bytes(gzip.compress(b"MAN\twoman\t9\nman\tking\t8\nqueen\tpear\t1\nman\tcrab\t5\nking\tqueen\t9\n"))
    found = evaluate_word_pairs(kv, path)
    cosines = [1 / math.sqrt(2), 1 / math.sqrt(2), (-1 + 0.1) / math.sqrt(3 * 1.01), 2 / math.sqrt(6)]
    assert found.pairs == 4 and found.oov == 1 and found.oov_percent == 20
    assert found.pearson == pytest.approx(pearson([9, 8, 1, 9], cosines))
    assert found.spearman.statistic == pytest.approx(np.corrcoef([3.5, 2, 1, 3.5], [2.5, 2.5, 1, 4])[0, 1])
    assert found.spearman_interval == pytest.approx(interval(found.spearman.statistic, 4, of_ranks=True))
    assert evaluate_word_pairs(kv, path, dummy4unknown=True).pairs == 5


def test_analogies_by_hand(kv, tmp_path):
    path = write(
        tmp_path / "q", ": royal\nman woman king queen\nman king woman queen\n: fruit\nman apple woman queen\na b c d\n"
    )
    found = evaluate_word_analogies(kv, path)
    assert [(s.name, s.accuracy, s.oov) for s in found.sections] == [("royal", 1.0, 0), ("fruit", 0.0, 1)]
    assert found.accuracy == pytest.approx(2 / 3) and found.oov_percent == 25
    # apple and pear point away from man: the product divides by almost nothing
    assert evaluate_word_analogies(kv, path, similarity_function="most_similar_cosmul").accuracy == 0
    assert found.total.name == "Total accuracy" and len(found.total.correct) == 2
    everything = evaluate_word_analogies(kv, path, dummy4unknown=True)
    assert everything.accuracy == 0.5 and everything.oov == 1


def test_cosmul_analogies_equal_single_queries(tmp_path):
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(300)]
    kv = KeyedVectors(words, rng.normal(size=(300, 10)))
    lines = []
    for a, b, c in rng.choice(words, (600, 3)).tolist():
        lines.append(f"{a} {b} {c} {kv.most_similar_cosmul([b, c], [a], topn=1)[0][0]}")
    path = write(tmp_path / "q", "\n".join([": all", *lines]))
    assert evaluate_word_analogies(kv, path, similarity_function="most_similar_cosmul").accuracy == 1
    assert evaluate_word_analogies(kv, path).accuracy < 1


def test_groups_by_hand(tmp_path):
    near = KeyedVectors(list("abcdef"), np.array([[1, 0], [1, 0.1], [1, -0.1], [0, 1], [0.1, 1], [-0.1, 1]]))
    groups = read_groups(write(tmp_path / "g", "# fruit and metal\n: one\na b\nc\n\n: two\nd e f missing\n"))
    assert groups == {"one": ["a", "b", "c"], "two": ["d", "e", "f", "missing"]}
    found = evaluate_clusters(near, groups)
    assert (found.purity, found.words, found.groups, found.oov) == (1, 6, 2, 1) and found.nmi == pytest.approx(1)
    outliers = evaluate_outliers(near, groups)
    assert (outliers.accuracy, outliers.opp, outliers.tests, outliers.oov) == (1, 100, 6, 1)
    # Groups that cut across: clusters {a, b, c}, {d, e, f} against {a, b, d}, {c, e, f}
    mixed = evaluate_clusters(near, {"x": ["a", "b", "d"], "y": ["c", "e", "f"]})
    assert mixed.purity == pytest.approx(4 / 6)
    h = math.log(2)
    conditional = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert mixed.nmi == pytest.approx((h - conditional) / h)
    # d among a, b, c is last; b among a, c, d is not: it has as many near words as a
    assert evaluate_outliers(near, [(["a", "b", "c"], ["d"])]).accuracy == 1
    wrong = evaluate_outliers(near, [(["a", "d", "e", "f"], ["b"])])
    assert wrong.accuracy == 0 and wrong.opp == pytest.approx(75)
    assert evaluate_clusters(near, groups) == evaluate_clusters(near, groups)
    # x at 0 degrees, y at 60, the outlier at -50: nearer to x than y is, so that y and not the outlier is the odd one
    angles = np.radians([0, 60, -50])
    three = KeyedVectors(list("xyo"), np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert evaluate_outliers(three, [("xy", "o")]).opp == 50


def test_kmeans_as_scikit_learn():
    cluster = pytest.importorskip("sklearn.cluster", reason="compares with scikit-learn where it is installed")
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(6, 12))
    labels = np.repeat(np.arange(6), 30)
    kv = KeyedVectors([f"w{i}" for i in range(180)], centres[labels] + 0.9 * rng.normal(size=(180, 12)))
    groups = {str(g): [f"w{i}" for i in np.flatnonzero(labels == g)] for g in range(6)}
    theirs = cluster.KMeans(6, n_init=30, random_state=0).fit_predict(kv.get_normed_vectors())
    want = metrics.normalized_mutual_info_score(labels, theirs)
    assert evaluate_clusters(kv, groups, restarts=30).nmi == pytest.approx(want, abs=0.03)
    assert 0.5 < want < 0.99


def test_888_files(tmp_path):
    assert read_outliers(write(tmp_path / "t", "a\nb c\n\n\nd\ne\n")) == (["a", "b c"], ["d", "e"])
    with pytest.raises(ValueError, match="expected the words of a group, an empty line and outliers, got 1 parts"):
        read_outliers(write(tmp_path / "t", "a\nb\n"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda kv, p: evaluate_word_pairs(kv, write(p, "man\twoman\t1\n")), "expected at least two pairs .* got 1"),
        (lambda kv, p: evaluate_word_pairs(kv, p, restrict_vocab=0), "restrict_vocab: expected None or a positive"),
        (lambda kv, p: evaluate_word_analogies(kv, write(p, "a b c d\n")), "line 1: expected a section"),
        (lambda kv, p: evaluate_word_analogies(kv, write(p, ": x\n")), "expected questions of four words, got none"),
        (lambda kv, p: evaluate_word_analogies(kv, p, similarity_function="x"), "similarity_function: .* got 'x'"),
        (lambda kv, p: read_groups(write(p, "a\n: x\n")), "line 1: expected a group"),
        (lambda kv, p: read_groups(write(p, ": x\n: x\n")), "line 2: the group 'x' comes twice"),
        (lambda kv, p: read_groups(write(p, "\n")), "expected groups .* got none"),
        (lambda kv, p: evaluate_clusters(kv, {"a": ["man"], "b": ["crab"]}), "at least two in the vocabulary, got 1"),
        (lambda kv, p: evaluate_outliers(kv, {"a": ["man"], "b": ["woman"]}), "no group of two known words"),
    ],
)
def test_errors(kv, tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(kv, tmp_path / "file")


# ---- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def files(kv, tmp_path):
    kv.save(tmp_path / "model")
    write(tmp_path / "pairs.tsv", "man\twoman\t9\nman\tking\t8\nqueen\tpear\t1\nking\tqueen\t9\n")
    write(tmp_path / "flat.tsv", "man\twoman\t5\nman\tking\t5\n")
    write(tmp_path / "questions.txt", ": royal\nman woman king queen\n")
    write(tmp_path / "groups.txt", ": people\nman woman king queen\n: fruit\napple pear\n")
    write(tmp_path / "888.txt", "man\nwoman\nking\n\npear\n")
    return tmp_path


def test_command_json(files, capsys):
    pairs = [str(files / "pairs.tsv"), str(files / "flat.tsv")]
    arguments = [str(files / "model"), "--pairs", *pairs, "--analogies", str(files / "questions.txt")]
    arguments += ["--groups", str(files / "groups.txt"), "--outliers", str(files / "888.txt"), "--json"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    first, second = report["pairs"]
    assert report["words"] == 7 and first["file"] == pairs[0] and first["pairs"] == 4
    assert first["spearman"]["low95"] <= first["spearman"]["statistic"] <= first["spearman"]["high95"]
    assert second["pearson"]["statistic"] is None  # people gave every pair the same score
    assert report["analogies"][0]["sections"] == [
        {"section": "royal", "accuracy": 1.0, "correct": 1, "answered": 1, "oov": 0}
    ]
    assert report["groups"][0]["clusters"]["purity"] == 1 and report["outliers"]["accuracy"] == 1


def test_command_table(files, capsys):
    arguments = [str(files / "model"), "--pairs", str(files / "pairs.tsv"), "--analogies", str(files / "questions.txt")]
    assert main([*arguments, "--groups", str(files / "groups.txt"), "--restrict-vocab", "None"]) == 0
    text = capsys.readouterr().out
    assert "7 words, dim 3" in text and "Spearman" in text and "1 of 1" in text and "purity" in text
    assert max(map(len, text.splitlines())) < 110


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model"], "error: expected something to judge by"),
        (["none", "--pairs", "pairs.tsv"], "no such file"),
        (["model", "--pairs", "none.tsv"], "none.tsv"),
        (["model", "--analogies", "questions.txt", "--device", "tpu0"], "device: expected cpu or cuda, got 'tpu0'"),
        (["model", "--pairs", "groups.txt"], "expected at least two pairs"),
    ],
)
def test_command_errors(files, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error
