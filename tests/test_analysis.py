"""The quality report: every figure against a plain computation over all pairs, and the report's three forms."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import w2v_ext
from w2v_ext import geometry
from w2v_ext.analyze import main
from w2v_ext.synthetic import builtin_corpus_path
from w2v_ext.themes import parse_pairs, parse_themes, read_themes

ROOT = Path(__file__).resolve().parents[1]


def random_vectors(n=300, dim=12, seed=0, shift=0.3):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, dim)) * rng.uniform(0.5, 2, size=(n, 1)) + shift
    words = [f"w{i}" for i in range(n)]
    return w2v_ext.KeyedVectors(words, rows.astype(np.float32), counts=np.arange(n, 0, -1) ** 2)


def all_cosines(vectors):
    units = vectors.vectors.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    return units @ units.T


@pytest.mark.parametrize("n, dim, block", [(300, 12, 64), (5, 3, 64), (2, 1, 1), (130, 129, 7)])
def test_moments_are_those_of_all_pairs(n, dim, block, monkeypatch):
    monkeypatch.setattr(geometry, "_BLOCK", block)
    kv = random_vectors(n, dim)
    cosines = all_cosines(kv)[np.triu_indices(n, 1)]
    sums = geometry.moments(kv.vectors, np.arange(n))
    assert sums.cosine_mean == pytest.approx(cosines.mean(), abs=1e-12)
    assert sums.cosine_std == pytest.approx(cosines.std(), abs=1e-7)
    np.testing.assert_allclose(sums.mean, kv.vectors.mean(axis=0, dtype=np.float64), atol=1e-12)
    np.testing.assert_allclose(sums.second, kv.vectors.T.astype(float) @ kv.vectors / n, atol=1e-6)


@pytest.mark.parametrize("tile", [16, 100, 2048])
def test_most_similar_pairs_are_those_of_the_whole_matrix(tile, monkeypatch):
    monkeypatch.setattr(geometry, "_TILE", tile)
    kv = random_vectors()
    rows = np.delete(np.arange(300), [3, 77])
    cosines = all_cosines(kv)
    cosines[[3, 77]] = cosines[:, [3, 77]] = -2
    first, second = np.triu_indices(300, 1)
    order = np.argsort(-cosines[first, second], kind="stable")[:50]
    found = geometry.most_similar_pairs(kv.vectors, rows, 50)
    assert [(a, b) for a, b, _ in found] == list(zip(first[order], second[order], strict=True))
    np.testing.assert_allclose([c for *_, c in found], cosines[first, second][order], atol=1e-12)


def test_equal_vectors_are_pairs_like_others_and_asking_for_all_gives_all():
    kv = w2v_ext.KeyedVectors(list("abcd"), np.array([[1, 0], [2, 0], [0, 1], [3, 0]], np.float32))
    found = geometry.most_similar_pairs(kv.vectors, np.arange(4), 100)
    assert [(a, b) for a, b, _ in found] == [(0, 1), (0, 3), (1, 3), (0, 2), (1, 2), (2, 3)]
    assert [c for *_, c in found] == [1, 1, 1, 0, 0, 0]


def test_sampled_cosines_never_pair_a_row_with_itself_and_are_all_where_there_are_few():
    kv = w2v_ext.KeyedVectors(list("abc"), np.eye(3, dtype=np.float32))
    np.testing.assert_array_equal(geometry.sample_cosines(kv.vectors, np.arange(3), 10), [0, 0, 0])
    kv = random_vectors(2000, 5)
    many = geometry.sample_cosines(kv.vectors, np.arange(2000), 200_000, seed=1)
    assert len(many) == 200_000
    exact = all_cosines(kv)[np.triu_indices(2000, 1)]
    assert many.mean() == pytest.approx(exact.mean(), abs=5 * exact.std() / np.sqrt(200_000))
    assert many.max() < 1 - 1e-6 or exact.max() > 1 - 1e-6
    np.testing.assert_array_equal(many, geometry.sample_cosines(kv.vectors, np.arange(2000), 200_000, seed=1))


def test_iso_score_of_known_shapes():
    assert geometry.iso_score(np.ones(10)) == pytest.approx(1)
    assert geometry.iso_score(np.eye(10)[0]) == pytest.approx(0)
    # k equal variances of n: the paper's equation for the share of used dimensions gives iota = (k - 1) / (n - 1).
    assert geometry.iso_score(np.array([2.0] * 4 + [0] * 5)) == pytest.approx(3 / 8)


def test_partition_ratio_is_that_of_the_definition(monkeypatch):
    monkeypatch.setattr(geometry, "_BLOCK", 50)
    kv = random_vectors(200, 6, shift=0.5)
    second = kv.vectors.T.astype(float) @ kv.vectors / 200
    _, axes = np.linalg.eigh(second)
    z = np.exp(kv.vectors.astype(float) @ np.hstack([axes, -axes])).sum(axis=0)
    assert geometry.partition_ratio(kv.vectors, np.arange(200), second) == pytest.approx(z.min() / z.max(), rel=1e-5)
    huge = (kv.vectors * 1000).astype(np.float32)  # exp would overflow
    assert 0 <= geometry.partition_ratio(huge, np.arange(200), second * 1e6) < 1e-100


def test_report_holds_what_all_pairs_say():
    kv = random_vectors()
    cosines = all_cosines(kv)
    themes = {"few": ["w1", "w2", "w3", "absent"], "lone": ["w9", "w9"], "none": ["no", "way"]}
    report = w2v_ext.analyze_embedding_quality(kv, themes=themes, pairs=[("w1", "w2"), ("w1", "gone")], top_pairs=3)
    few, lone, none = report.themes
    inside = (cosines[1, 2] + cosines[1, 3] + cosines[2, 3]) / 3
    everything = cosines[np.triu_indices(300, 1)]
    assert few.mean_similarity == pytest.approx(inside, abs=1e-6)
    assert few.lift == pytest.approx(inside - everything.mean(), abs=1e-6)
    assert few.deviations == pytest.approx((inside - everything.mean()) / everything.std(), abs=1e-5)
    assert few.missing == ("absent",)
    to_others = {f"w{i}": (cosines[i, [1, 2, 3]].sum() - 1) / 2 for i in (1, 2, 3)}
    assert few.least_typical[0] == min(to_others, key=to_others.get)
    assert (lone.words, lone.mean_similarity) == (("w9",), None)
    assert (none.words, none.missing, none.lift) == ((), ("no", "way"), None)
    assert report.theme_similarity[0][1] == pytest.approx(cosines[[1, 2, 3], 9].mean(), abs=1e-6)
    assert report.theme_similarity[0][2] is None
    assert report.pairs[0].similarity == pytest.approx(cosines[1, 2], abs=1e-6)
    assert (report.pairs[1].similarity, report.pairs[1].missing) == (None, ("gone",))
    assert report.similarities.mean == pytest.approx(everything.mean(), abs=1e-9)
    assert report.similarity_pairs == len(everything)
    assert sum(report.similarities.counts) == len(everything)
    assert report.similarities.quantiles["0.5"] == pytest.approx(np.median(everything), abs=1e-6)
    norms = np.linalg.norm(kv.vectors.astype(float), axis=1)
    assert report.norms.mean == pytest.approx(norms.mean(), rel=1e-6)
    assert report.norms.maximum == pytest.approx(norms.max(), rel=1e-6)
    covariance = np.cov(kv.vectors.T.astype(float), bias=True)
    variances = np.linalg.eigvalsh(covariance)[::-1]
    np.testing.assert_allclose(report.isotropy.variance_shares, variances / variances.sum(), atol=1e-6)
    assert report.isotropy.effective_dimensions == pytest.approx(variances.sum() ** 2 / (variances**2).sum(), rel=1e-5)
    assert sum(band.words for band in report.frequency.bands) == 300
    for band in report.frequency.bands:
        at = (kv.counts >= band.lowest) & (kv.counts <= band.highest)
        assert band.mean_norm == pytest.approx(norms[at].mean(), rel=1e-6)
    assert report.notes == []


def test_anomalies_are_the_norms_beyond_k_standard_deviations():
    kv = random_vectors(400)
    kv.vectors[7] *= 40
    kv.vectors[11] *= 30
    report = w2v_ext.analyze_embedding_quality(kv, k_sigma=3)
    norms = np.linalg.norm(kv.vectors.astype(float), axis=1)
    far = np.flatnonzero(np.abs(norms - norms.mean()) > 3 * norms.std())
    assert report.anomaly_count == len(far) == len(report.anomalies)
    assert [a.word for a in report.anomalies] == ["w7", "w11"]
    assert report.anomalies[0].deviations == pytest.approx((norms[7] - norms.mean()) / norms.std(), rel=1e-5)
    assert report.anomalies[0].count == kv.counts[7]
    assert w2v_ext.analyze_embedding_quality(kv, k_sigma=100).anomalies == []


def test_zero_and_nonfinite_rows_are_named_and_change_nothing_else():
    kv = random_vectors(100)
    clean = w2v_ext.analyze_embedding_quality(kv)
    words = ["<PAD>", *kv.index_to_key, "bad", "worse"]
    rows = np.vstack([np.zeros(12), kv.vectors, np.full(12, np.nan), np.full(12, np.inf)])
    dirty = w2v_ext.analyze_embedding_quality(w2v_ext.KeyedVectors(words, rows, [0, *kv.counts, 1, 1]))
    assert (dirty.zero_words, dirty.nonfinite_words) == (["<PAD>"], ["bad", "worse"])
    assert dirty.most_similar == clean.most_similar
    assert dirty.similarities == clean.similarities
    assert dirty.norms == clean.norms
    assert dirty.isotropy == clean.isotropy
    assert "1 zero vectors are left out of all figures" in dirty.notes
    assert "bad, worse" in dirty.to_text()


def test_limits_are_said(monkeypatch):
    kv = random_vectors()
    report = w2v_ext.analyze_embedding_quality(kv, pair_words=50, sample_pairs=1000)
    assert report.pair_words == 50
    assert {word for p in report.most_similar for word in (p.first, p.second)} <= set(kv.index_to_key[:50])
    assert any("among the first 50 words of 300" in note for note in report.notes)
    assert any("1,000 random pairs of 44,850" in note for note in report.notes)
    assert all(note in report.to_text() for note in report.notes)


def test_no_counts_and_one_word():
    kv = random_vectors()
    plain = w2v_ext.KeyedVectors(kv.index_to_key, kv.vectors)
    report = w2v_ext.analyze_embedding_quality(plain)
    assert report.frequency is None
    assert "frequency" not in report.to_text()
    lone = w2v_ext.analyze_embedding_quality(w2v_ext.KeyedVectors(["a"], np.ones((1, 3))))
    assert lone.most_similar == []
    assert lone.to_dict()["similarities"]["mean"] is None
    assert "–" in lone.to_text()


def test_nothing_of_size_v_by_v_is_made(monkeypatch):
    """200,000 words: V x V floats would be 160 GB; every product's result is looked at instead of hoping."""
    largest = 0
    plain_matmul = torch.Tensor.__matmul__

    def watched(a, b):
        nonlocal largest
        out = plain_matmul(a, b)
        largest = max(largest, out.numel())
        return out

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    rows = np.random.default_rng(0).normal(size=(200_000, 8)).astype(np.float32)
    kv = w2v_ext.KeyedVectors([str(i) for i in range(len(rows))], rows)
    report = w2v_ext.analyze_embedding_quality(kv, pair_words=5000, sample_pairs=10_000)
    assert report.vocab_size == 200_000
    assert report.similarities.mean == pytest.approx(0, abs=1e-3)
    assert 0 < largest <= 2048 * 2048


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"top_pairs": -1}, "top_pairs: expected a number >= 0, got -1"),
        ({"k_sigma": 0}, "k_sigma: expected a number > 0, got 0"),
        ({"k_sigma": float("nan")}, "k_sigma: expected a number > 0, got nan"),
        ({"pair_words": 1}, "pair_words: expected None or a number >= 2, got 1"),
        ({"sample_pairs": 0}, "sample_pairs: expected a number >= 1, got 0"),
        ({"themes": {"a": "cat"}}, "themes: theme 'a': expected a list of words, got 'cat'"),
        ({"themes": ["cat"]}, "themes: expected theme: [word, ...], got list"),
        ({"themes": {"a": []}}, "themes: theme 'a': expected at least one word, got none"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        w2v_ext.analyze_embedding_quality(random_vectors(10), **arguments)


def test_no_vector_with_a_direction():
    with pytest.raises(ValueError, match="expected at least one that is finite and not zero, got none of 2"):
        w2v_ext.analyze_embedding_quality(w2v_ext.KeyedVectors(["a", "b"], np.zeros((2, 3))))


# ---- themes and pairs --------------------------------------------------------------------------------------------


def test_themes_from_flags_and_files(tmp_path):
    (tmp_path / "t.yaml").write_text("answers: [yes, no, 42]\nanimals: [dog, cat, dog]\n")
    (tmp_path / "t.json").write_text('{"answers": ["yes"]}')
    assert read_themes(tmp_path / "t.yaml") == {"answers": ("yes", "no", "42"), "animals": ("dog", "cat")}
    assert read_themes(tmp_path / "t.json") == {"answers": ("yes",)}
    themes = parse_themes(["animals=fox, owl", "家=爸爸，妈妈"], tmp_path / "t.yaml")
    assert themes == {"answers": ("yes", "no", "42"), "animals": ("fox", "owl"), "家": ("爸爸", "妈妈")}
    assert "animals" in read_themes("builtin")
    (tmp_path / "bad.yaml").write_text("a: [b\n")
    with pytest.raises(ValueError, match="bad.yaml is not valid YAML or JSON"):
        read_themes(tmp_path / "bad.yaml")
    (tmp_path / "flat.yaml").write_text("a: cat\n")
    with pytest.raises(ValueError, match="flat.yaml: theme 'a': expected a list of words, got 'cat'"):
        read_themes(tmp_path / "flat.yaml")
    for flag in ("animals", "=dog", "animals="):
        with pytest.raises(ValueError, match="theme: expected NAME=WORD,WORD,..."):
            parse_themes([flag])


def test_pairs_from_flags_and_files(tmp_path):
    (tmp_path / "p.txt").write_text("# a comment\nking queen 8.5\n\nice cream\tcake\t3\n")
    assert parse_pairs(["a,b", "c:d"], tmp_path / "p.txt") == [
        ("king", "queen"),
        ("ice cream", "cake"),
        ("a", "b"),
        ("c", "d"),
    ]
    (tmp_path / "bad.txt").write_text("king queen\nlonely\n")
    with pytest.raises(ValueError, match="bad.txt, line 2: expected two words, got 'lonely'"):
        parse_pairs([], tmp_path / "bad.txt")
    with pytest.raises(ValueError, match="pair: expected WORD,WORD, got 'a'"):
        parse_pairs(["a"])


# ---- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    random_vectors().save_word2vec_format(tmp_path / "model.txt")
    return str(tmp_path / "model.txt")


def test_command_prints_and_writes(model, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra viz)")
    html, figures = tmp_path / "r.html", tmp_path / "r.json"
    arguments = [model, "--theme", "t=w1,w2,w3", "<b>&=w4,w5", "--pair", "w1,w2", "--html", str(html)]
    assert main([*arguments, "--json", str(figures)]) == 0
    printed = capsys.readouterr().out
    for part in ("300 words, 12 dimensions", "Themes", "fits worst", "IsoScore", "Most similar pairs", "Anomalies"):
        assert part in printed
    loaded = json.loads(figures.read_text())
    assert loaded["vocab_size"] == 300
    assert loaded["themes"][0]["words"] == ["w1", "w2", "w3"]
    page = html.read_text()
    assert page.count("data:image/png;base64,") == 1  # the map
    assert page.count("data:image/svg+xml;base64,") == 5  # themes, between, similarities, norms, spectrum
    assert "<b>&=" not in page and "<b>&<" not in page
    assert "&lt;b&gt;&amp;" in page
    assert not re.search(r"(src|href)=[\"'](?!data:)", page)
    assert not re.search(r"https?://", page)


def test_command_writes_json_to_the_terminal(model, capsys):
    assert main([model, "--json", "-", "--top-pairs", "2"]) == 0
    assert len(json.loads(capsys.readouterr().out)["most_similar"]) == 2


def test_a_reader_who_leaves_early_is_no_error(model, tmp_path):
    out = tmp_path / "r.json"
    command = [sys.executable, "-m", "w2v_ext.analyze", model, "--json", str(out)]
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    done.stdout.close()
    assert done.stderr.read() == b""
    assert done.wait() == 0
    assert json.loads(out.read_text())["vocab_size"] == 300


def test_bad_commands(model, tmp_path, capsys):
    for arguments, message in (
        ([str(tmp_path / "absent")], "model: no such file or directory"),
        ([model, "--theme", "oops"], "theme: expected NAME=WORD,WORD,..., got 'oops'"),
        ([model, "--html", str(tmp_path / "no/r.html")], "html: no such directory"),
        ([model, "--pairs", str(tmp_path / "absent.txt")], "absent.txt"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_html_without_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'w2v_ext[viz]'")):
        w2v_ext.analyze_embedding_quality(random_vectors(20)).to_html()


def test_built_in_themes_stand_out(tmp_path):
    corpus = w2v_ext.prepare_corpus(builtin_corpus_path())
    vectors = w2v_ext.Trainer(corpus, w2v_ext.TrainConfig(dim=50, epochs=3)).fit().keyed_vectors()
    report = w2v_ext.analyze_embedding_quality(vectors, themes=read_themes("builtin"))
    assert len(report.themes) == 20
    assert all(theme.missing == () for theme in report.themes)
    assert sum(theme.lift > 0.2 for theme in report.themes) >= 18
