"""The classifier from Python: reading, learning, answers, files, and what is said of bad input."""

import bz2
import gzip
import json
import lzma
import math

import numpy as np
import pytest
import torch
import zstandard

import w2v_ext
from w2v_ext import KeyedVectors, TextClassifier
from w2v_ext.classify import ClassifierConfig, encode_lines, read_lines
from w2v_ext.classify.report import count_answers
from w2v_ext.files import FormatError
from w2v_ext.sources import CorpusError
from w2v_ext.trainer import TrainingError

FAST = dict(dim=16, epochs=15, lr=0.5, threads=1)


def make_lines(n=400, seed=0, labels=("good", "bad", "so-so")):
    """Each label has ten words of its own, among words that all have; the order of two tells the third one."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(n):
        label = rng.integers(len(labels))
        own = [f"{labels[label]}{i}" for i in rng.integers(0, 10, 3)]
        words = rng.permutation([*own, *(f"w{i}" for i in rng.integers(0, 50, 6))])
        lines.append(f"__label__{labels[label]} {' '.join(words)}")
    return lines


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lines")
    for name, seed in (("train", 0), ("test", 1)):
        (folder / name).write_text("\n".join(make_lines(seed=seed)) + "\n")
    return folder


@pytest.fixture(scope="module")
def model(text):
    return TextClassifier(**FAST).fit(text / "train")


def same(a, b):
    return torch.equal(a.in_weight, b.in_weight) and torch.equal(a.out_weight, b.out_weight)


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_lines_are_read_as_fasttext_reads_them():
    text = "__label__a  x\ty __label__b x\n\ny\v\fz\r\nno\u00a0break\x00q </s>\n__label__a"
    lines = encode_lines([text.encode()])
    words = [[lines.words[t] for t in part] for part in np.split(lines.tokens, lines.ends)[:-1]]
    end = "</s>"
    assert words == [["x", "y", "x", end], [end], ["y", "z", end], ["no\u00a0break", "q", end, end], [end]]
    labels = [[lines.labels[t] for t in part] for part in np.split(lines.line_labels, lines.label_ends)[:-1]]
    assert labels == [["__label__a", "__label__b"], [], [], [], ["__label__a"]]
    assert dict(zip(lines.words, lines.word_counts.tolist(), strict=True)) == {
        "</s>": 6, "x": 2, "y": 2, "no\u00a0break": 1, "q": 1, "z": 1
    }  # fmt: skip
    assert lines.word_counts.tolist() == sorted(lines.word_counts.tolist(), reverse=True)
    assert lines.labels == ["__label__a", "__label__b"] and lines.label_counts.tolist() == [2, 1]
    assert lines.is_blank().tolist() == [False, True, False, False, False]
    assert lines.labels_per_line.tolist() == [2, 0, 0, 0, 1]


@pytest.mark.parametrize("ending", ["", "\n", "\n\n"])
def test_a_line_for_each_line(ending):
    assert len(encode_lines([f"a\nb{ending}".encode()])) == 2 + max(0, len(ending) - 1)
    assert len(encode_lines([b""])) == 0


def test_blocks_and_threads_change_nothing(tmp_path):
    rng = np.random.default_rng(0)
    lines = [" ".join(f"w{i}" for i in rng.integers(0, 3000, 8)) for _ in range(60_000)]
    path = tmp_path / "long"
    path.write_text("\n".join(f"__label__{i % 3} {line}" for i, line in enumerate(lines)))
    assert path.stat().st_size > 2 << 20  # more than two blocks
    one, three = (read_lines(path, threads=threads) for threads in (1, 3))
    assert one.words == three.words and one.labels == three.labels and len(one) == 60_000
    for name in ("tokens", "ends", "line_labels", "label_ends", "word_counts"):
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name))
    assert [" ".join(one.words[t] for t in one.tokens[: one.ends[0] - 1])] == lines[:1]


def test_compressed_files_give_the_same_model(text, tmp_path, model):
    data = (text / "train").read_bytes()
    packed = {"gz": gzip.compress(data), "xz": lzma.compress(data), "zst": zstandard.compress(data)}
    for name, contents in packed.items():
        (tmp_path / f"train.{name}").write_bytes(contents)
        assert same(TextClassifier(**FAST).fit(tmp_path / f"train.{name}"), model), name
    (tmp_path / "cut.gz").write_bytes(packed["gz"][:-20])
    with pytest.raises(CorpusError, match="cut.gz: the compressed data are damaged"):
        TextClassifier(**FAST).fit(tmp_path / "cut.gz")
    (tmp_path / "train.bz2").write_bytes(bz2.compress(data))
    with pytest.raises(CorpusError, match="not UTF-8"):
        TextClassifier(**FAST).fit(tmp_path / "train.bz2")


# ---- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["softmax", "hs", "ova"])
@pytest.mark.parametrize("threads", [1, 2])
def test_learns(text, loss, threads):
    model = TextClassifier(**{**FAST, "threads": threads}, loss=loss).fit(text / "train")
    losses = model.state.losses
    assert losses[-1] < 0.3 * losses[0]
    report = model.test(text / "test")
    assert report.n == 400 and report.precision == report.recall > 0.97
    assert all(label.f1 > 0.95 for label in report.labels)
    assert model.metrics()["words_per_second"] > 0


def test_the_order_of_words_needs_ngrams(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for i in range(600):
        a, b = rng.integers(0, 5), rng.integers(0, 5)
        lines.append(f"__label__{i % 2} " + (f"a{a} b{b}" if i % 2 else f"b{b} a{a}"))
    (tmp_path / "lines").write_text("\n".join(lines))
    right = [
        TextClassifier(**FAST, word_ngrams=n).fit(tmp_path / "lines").test(tmp_path / "lines").precision for n in (1, 2)
    ]
    assert right[0] < 0.6 and right[1] > 0.97


def test_subwords_tell_of_unseen_words(text):
    model = TextClassifier(**FAST, min_n=3, max_n=5).fit(text / "train")
    assert model.predict("bad77 bad999", k=1)[0][0] == "__label__bad"
    whole = TextClassifier(**FAST).fit(text / "train")
    assert whole.predict("good77") == whole.predict("xyz")  # unknown words have nothing but "</s>" beside them


def test_several_labels_a_line(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(500):
        mine = [name for name in "abc" if rng.random() < 0.5] or ["a"]
        lines.append(" ".join([*(f"__label__{x}" for x in mine), *(f"{x}{rng.integers(5)}" for x in mine)]))
    (tmp_path / "lines").write_text("\n".join(lines))
    model = TextClassifier(**FAST, loss="ova").fit(tmp_path / "lines")
    report = model.test(tmp_path / "lines", k=3, threshold=0.5)
    assert report.precision > 0.95 and report.recall > 0.95
    assert {label for label, _ in model.predict("a1 c2", k=3, threshold=0.5)} == {"__label__a", "__label__c"}


def test_same_seed_same_model(text, model):
    assert same(TextClassifier(**FAST).fit(text / "train"), model)
    assert not same(TextClassifier(**FAST, seed=2).fit(text / "train"), model)


def test_texts_and_labels_from_python(text, model):
    lines = [line.split(" ", 1) for line in (text / "train").read_text().splitlines()]
    texts, labels = [line[1] for line in lines], [line[0].removeprefix("__label__") for line in lines]
    assert same(TextClassifier(**FAST).fit(texts, labels), model)
    assert same(TextClassifier(**FAST).fit(texts, [[label] for label in labels]), model)
    for bad, message in ((labels[:-1], "labels: expected as many"), (["a b"] * 400, "labels: expected text without")):
        with pytest.raises(ValueError, match=message):
            TextClassifier(**FAST).fit(texts, bad)
    with pytest.raises(TypeError, match="texts: expected strings, got int at 0"):
        TextClassifier(**FAST).fit([1, 2], ["a", "b"])


def test_rare_words_and_labels(tmp_path):
    (tmp_path / "lines").write_text("__label__a x y\n__label__a x\n__label__b x z\n__label__b z\n__label__c x\n")
    with pytest.warns(UserWarning, match="seen once, too seldom to be learnt: __label__c"):
        model = TextClassifier(dim=4, min_count=2, word_ngrams=1).fit(tmp_path / "lines")
    assert model.words.words == ["</s>", "x", "z"] and model.labels.words == ["__label__a", "__label__b", "__label__c"]
    model = TextClassifier(dim=4, min_count_label=2).fit(tmp_path / "lines")
    assert model.labels.words == ["__label__a", "__label__b"] and model.state.total == 4 * 5


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_predictions(model):
    one = model.predict("good1 good2 w3", k=2)
    assert one[0][0] == "__label__good" and one[0][1] > 0.9 > one[1][1]
    many = model.predict(["good1 good2 w3", "bad1", ""], k=9)
    assert [len(answer) for answer in many] == [3, 3, 3] and many[0][:2] == one
    assert all(math.isclose(sum(p for _, p in answer), 1, rel_tol=1e-5) for answer in many)
    assert model.predict("good1 good2 w3", k=3, threshold=0.9) == one[:1]
    assert model.predict("__label__bad good1\ngood2 w3", k=2) == one  # labels and line breaks are passed over
    for k in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="k: expected an integer >= 1"):
            model.predict("a", k=k)
    with pytest.raises(ValueError, match="threshold: expected a number"):
        model.predict("a", threshold=math.nan)
    with pytest.raises(ValueError, match="has not been fitted"):
        TextClassifier().predict("a")


def test_report_by_hand(model, tmp_path):
    (tmp_path / "lines").write_text("__label__good good1 good2\n__label__bad good1 good3\n__label__bad bad1 bad2\n")
    report = model.test(tmp_path / "lines")
    assert (report.n, report.precision, report.recall) == (3, 2 / 3, 2 / 3)
    by_name = {label.label: label for label in report.labels}
    assert (by_name["__label__good"].precision, by_name["__label__good"].recall) == (1 / 2, 1)
    assert (by_name["__label__bad"].precision, by_name["__label__bad"].recall) == (1, 1 / 2)
    assert by_name["__label__bad"].f1 == 2 / 3
    assert by_name["__label__so-so"].precision is by_name["__label__so-so"].recall is by_name["__label__so-so"].f1
    assert "P@1  0.6667" in str(report) and str(report).count("-  ") >= 3
    assert json.loads(json.dumps(report.to_dict()))["labels"][0]["label"] == report.labels[0].label


def test_count_answers():
    answers = np.array([[0, 1], [2, -1], [1, 0]])
    labels, ends = np.array([1, 2, 0, 0]), np.array([1, 3, 4])  # {1}, {2, 0}, {0}
    counts = [column.tolist() for column in count_answers(answers, labels, ends, 3)]
    assert counts == [[2, 1, 1], [2, 2, 1], [1, 1, 1]]


# ---- pretrained ------------------------------------------------------------------------------------------------------


def test_pretrained_vectors(text, tmp_path):
    rng = np.random.default_rng(0)
    words = ["good1", "good2", "elsewhere", "</s>"]
    vectors = rng.normal(size=(4, 16)).astype(np.float32)
    KeyedVectors(words, vectors).save(tmp_path / "vectors")
    tiny = {**FAST, "epochs": 1, "lr": 1e-9}
    model = TextClassifier(**tiny, pretrained=tmp_path / "vectors").fit(text / "train")
    for word, vector in zip(words, vectors, strict=True):
        np.testing.assert_allclose(model.in_weight[model.words[word]], vector, atol=1e-6)
    assert model.words.words[-1] == "elsewhere" and model.words.counts[-1] == 0
    assert float(model.in_weight[model.words["bad1"]].abs().max()) <= 1 / 16
    with pytest.raises(ValueError, match=r"dim: expected 16, as the vectors of .* have, got 8"):
        TextClassifier(dim=8, pretrained=tmp_path / "vectors").fit(text / "train")
    with pytest.raises(FileNotFoundError, match="pretrained: no such file or directory"):
        TextClassifier(dim=8, pretrained=tmp_path / "absent").fit(text / "train")
    KeyedVectors(["x1"], vectors[:1]).save(tmp_path / "others")
    with pytest.warns(UserWarning, match="has none of the words of the input"):
        TextClassifier(**tiny, pretrained=tmp_path / "others").fit(text / "train")


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"loss": "hs", "min_n": 2, "max_n": 3}, {"loss": "ova", "word_ngrams": 1}])
def test_save_and_load(text, tmp_path, settings):
    model = TextClassifier(**FAST, **settings).fit(text / "train")
    model.save(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.json", "labels.tsv", "metrics.json", "model.safetensors", "vocab.tsv"
    ]  # fmt: skip
    again = TextClassifier.load(tmp_path / "model", threads=1)
    lines = read_lines(text / "test")
    assert same(again, model) and again.predict_lines(lines, 3) == model.predict_lines(lines, 3)
    assert again.config == model.config
    again.save(tmp_path / "copy")
    for name in ("model.safetensors", "vocab.tsv", "labels.tsv"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    assert (tmp_path / "model" / "model.safetensors").stat().st_size < 1e6  # unused buckets take nothing


def test_damaged_and_foreign_directories(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="model: no such file or directory"):
        TextClassifier.load(tmp_path / "absent")
    KeyedVectors(["a", "b"], np.eye(2, dtype=np.float32)).save(tmp_path / "vectors")
    with pytest.raises(FormatError, match="vectors: is no classifier"):
        TextClassifier.load(tmp_path / "vectors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="config.json: cannot be read.*a classifier's directory has one"):
        TextClassifier.load(tmp_path / "empty")
    (tmp_path / "file").write_text("text")
    with pytest.raises(FormatError, match="file: expected a classifier's directory, or a supervised .bin"):
        TextClassifier.load(tmp_path / "file")
    for name, change, message in (
        ("labels.tsv", lambda data: data + b"x\t1\n", "labels.tsv: is not the one"),
        ("vocab.tsv", lambda data: data[:-9], "vocab.tsv: is not the one"),
        ("model.safetensors", lambda data: data[:-9], "model.safetensors: damaged or truncated"),
        ("config.json", lambda data: data[:-9], "config.json: not valid JSON"),
        ("config.json", lambda data: data.replace(b'"dim"', b'"dims"'), "unknown setting 'dims'"),
        ("config.json", lambda data: data.replace(b'"dim": 16', b'"dim": 0'), "dim: expected an integer from 1"),
        ("config.json", lambda data: data.replace(b'"dim": 16', b'"dim": 17'), "word_weight is .* expected"),
    ):
        model.save(tmp_path / "model")
        path = tmp_path / "model" / name
        path.write_bytes(change(path.read_bytes()))
        with pytest.raises(ValueError, match=message):
            TextClassifier.load(tmp_path / "model")
    with pytest.raises(FormatError):
        KeyedVectors.load(tmp_path / "model")


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_lines_without_labels_are_counted_and_named(tmp_path):
    path = tmp_path / "lines"
    path.write_text("__label__a x\n\nno label\n__label__b y\nnor here\n__label__a x\n__label__b z\n")
    with pytest.warns(UserWarning, match=r"2 of 7 lines have no label and are left out \(the first is .*lines: line 3"):
        model = TextClassifier(dim=4).fit(path)
    assert model.state.total == 4 * 5
    with pytest.warns(UserWarning, match=r"2 of 7 lines have no label and do not count"):
        assert model.test(path).without_label == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("\n \n", "expected lines of labels and text, .*lines has none"),
        ("x y\nz\n", "expected lines with labels, which begin with '__label__'; none of the 2 lines has one"),
        ("__label__a x\n__label__a y\n", "at least two different labels, got __label__a on every line"),
    ],
)
def test_text_that_teaches_nothing(tmp_path, text, message):
    (tmp_path / "lines").write_text(text)
    with pytest.raises(ValueError, match=message):
        TextClassifier().fit(tmp_path / "lines")


def test_settings_that_leave_nothing(tmp_path):
    path = tmp_path / "lines"
    path.write_text("__label__a x\n__label__b y\n__label__a z\n")
    with pytest.raises(ValueError, match="at least two different labels, got 1 that occur 2 times"):
        TextClassifier(min_count_label=2).fit(path)
    with pytest.raises(ValueError, match="min_count: no word is seen 9 times; the largest count is 3"):
        TextClassifier(min_count=9).fit(path)
    (tmp_path / "bad").write_bytes(b"__label__a x\n__label__b \xff\n")
    with pytest.raises(CorpusError, match="not UTF-8: byte 0xff at offset 24"):
        TextClassifier().fit(tmp_path / "bad")
    with pytest.warns(UserWarning, match="seen once"):
        assert "\ufffd" in TextClassifier(dim=4, errors="replace").fit(tmp_path / "bad").words


def test_unknown_labels_in_a_test(model, tmp_path):
    (tmp_path / "lines").write_text("__label__good good1\n__label__new x\n__label__bad __label__new bad1\n")
    with pytest.warns(UserWarning, match=r"labels that the model does not know do not count: __label__new \(2\)"):
        report = model.test(tmp_path / "lines")
    assert report.n == 2 and report.unknown_labels == {"__label__new": 2}
    (tmp_path / "lines").write_text("__label__new x\n")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="labels that the model knows"):
        model.test(tmp_path / "lines")


@pytest.mark.parametrize("loss", ["softmax", "hs", "ova"])
def test_divergence_stops_and_names_the_learning_rate(text, loss):
    with pytest.raises(TrainingError, match="lr: the loss became .* try a learning rate below 1e"):
        TextClassifier(dim=4, lr=1e30, epochs=50, threads=1, loss=loss).fit(text / "train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 0}, "dim: expected an integer from 1 to 1048576, got 0"),
        ({"epochs": 1.5}, "epochs: expected an integer"),
        ({"lr": math.inf}, "lr: expected a number > 0, got inf"),
        ({"word_ngrams": 0}, "word_ngrams: expected"),
        ({"min_n": 3}, "min_n: expected at most max_n = 0, got 3"),
        ({"buckets": 0}, "buckets: expected"),
        ({"loss": "ns"}, "loss: expected one of softmax, hs, ova, got 'ns'"),
        ({"label": "a b"}, "label: expected a prefix without white space"),
        ({"pretrained": ""}, "pretrained: expected a path"),
        ({"ngrams": 2}, "unknown setting 'ngrams'; known: dim"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        TextClassifier(**settings)


def test_config_and_settings_are_alternatives():
    assert TextClassifier(ClassifierConfig(dim=3)).config.dim == 3
    with pytest.raises(TypeError, match="config: expected either it or settings"):
        TextClassifier(ClassifierConfig(), dim=3)
    assert w2v_ext.TextClassifier is TextClassifier
