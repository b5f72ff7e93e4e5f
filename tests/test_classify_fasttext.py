"""Beside the PyPI fastText: its supervised models answer here as they do there, and what is learnt is as good."""

import numpy as np
import pytest

from w2v_ext.classify import TextClassifier, read_lines
from w2v_ext.files import FormatError

fasttext = pytest.importorskip("fasttext", reason="compares with fastText where it is installed")

SETTINGS = {
    "softmax": dict(loss="softmax", wordNgrams=3, bucket=700),
    "subwords": dict(loss="softmax", wordNgrams=2, bucket=500, minn=2, maxn=4, minCount=3),
    "hs": dict(loss="hs", wordNgrams=2, bucket=300),
    "ova": dict(loss="ova", wordNgrams=1),
    "ns": dict(loss="ns", wordNgrams=1),
    "prefix": dict(loss="softmax", label="#", wordNgrams=2, bucket=100),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("fasttext") / "lines"
    rng = np.random.default_rng(0)
    names = ["red", "green", "blue", "naïve", "grün"]
    lines = []
    for _ in range(600):
        label = int(rng.integers(5) ** 2 / 5)
        words = [*(f"{names[label]}{i}" for i in rng.integers(0, 6, 2)), *(f"w{i}" for i in rng.integers(0, 200, 6))]
        lines.append(f"__label__{names[label]} {' '.join(rng.permutation(words))}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.with_name("hashes").write_text("\n".join(lines).replace("__label__", "#") + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", SETTINGS)
def test_its_models_answer_as_they_do_there(text, tmp_path, name):
    source = text.with_name("hashes") if name == "prefix" else text
    # It gives a tenth of the matrix to each thread to initialise: fewer than 11 leave some as malloc gave it.
    theirs = fasttext.train_supervised(str(source), dim=12, epoch=4, lr=0.3, thread=11, verbose=0, **SETTINGS[name])
    theirs.save_model(str(tmp_path / "model.bin"))
    ours = TextClassifier.load(tmp_path / "model.bin")
    assert ours.labels.words == theirs.get_labels() and ours.words.words == theirs.get_words()
    texts = [line.split(" ", 1)[1] for line in source.read_text(encoding="utf-8").splitlines()[:150]]
    texts += ["", "unseen words only", "naïve1 naïve77 词语", "red1 red1 red1", "</s>", "red1\u00a0red2 red3"]
    # It adds 1e-5 to probabilities, in a tree at each node; its sigmoid of one against all is a table in steps of 1/32.
    tolerance = {"ova": 0.01, "ns": 0.01, "hs": 1e-3}.get(name, 2e-5)
    for line, answer in zip(texts, ours.predict(texts, k=5), strict=True):
        if line == "</s>":
            continue  # it ends the line there
        wanted = {label: probability for probability, label in theirs.f.predict(line + "\n", 5, 0.0, "strict")}
        assert len(answer) == len(wanted)
        for label, probability in answer:
            assert probability == pytest.approx(wanted[label], abs=tolerance), line
    for k in (1, 2):
        report = ours.test(source, k=k)
        if name in ("softmax", "subwords", "prefix"):  # the others have ties within their tolerance
            assert (report.n, report.precision, report.recall) == pytest.approx(theirs.test(str(source), k))

    ours.save(tmp_path / "saved")
    again = TextClassifier.load(tmp_path / "saved")
    assert again.predict(texts, k=5) == ours.predict(texts, k=5)


def test_reads_the_same_words_and_labels(text):
    lines = read_lines(text)
    theirs = fasttext.train_supervised(str(text), dim=2, epoch=1, thread=11, verbose=0)
    words, counts = theirs.get_words(include_freq=True)
    assert dict(zip(lines.words, lines.word_counts.tolist(), strict=True)) == dict(
        zip(words, counts.tolist(), strict=True)
    )
    labels, counts = theirs.get_labels(include_freq=True)
    assert (lines.labels, lines.label_counts.tolist()) == (labels, counts.tolist())


@pytest.mark.parametrize("loss", ["softmax", "hs", "ova"])
def test_learns_as_well(text, loss):
    ours = TextClassifier(dim=16, epochs=8, lr=0.5, loss=loss, threads=2).fit(text).test(text).precision
    theirs = fasttext.train_supervised(
        str(text), dim=16, epoch=8, lr=0.5, wordNgrams=2, loss=loss, thread=2, verbose=0
    ).test(str(text))[1]
    assert ours >= theirs - 0.02


def test_models_without_labels_are_refused(text, tmp_path):
    model = fasttext.train_unsupervised(str(text), dim=4, epoch=1, thread=11, bucket=100, verbose=0)
    model.save_model(str(tmp_path / "skipgram.bin"))
    with pytest.raises(FormatError, match="skipgram.bin: a skipgram model of fastText, which has no labels"):
        TextClassifier.load(tmp_path / "skipgram.bin")
    model = fasttext.train_supervised(str(text), dim=4, epoch=1, thread=11, wordNgrams=2, bucket=1000, verbose=0)
    model.quantize()
    model.save_model(str(tmp_path / "small.ftz"))
    with pytest.raises(FormatError, match="quantised"):
        TextClassifier.load(tmp_path / "small.ftz")
    (tmp_path / "cut.bin").write_bytes((tmp_path / "skipgram.bin").read_bytes()[:-100])
    with pytest.raises(FormatError, match="cut.bin"):
        TextClassifier.load(tmp_path / "cut.bin")
