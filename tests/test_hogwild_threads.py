"""Everything that works with several native threads, at once and with many collisions: small, so that it can run under
ThreadSanitizer (`make sanitize-threads`), where races other than those in tools/tsan.supp are errors."""

import numpy as np
import pytest
import torch

import w2v_ext
from w2v_ext import _text
from w2v_ext.classify import TextClassifier

THREADS = 4
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def corpus():
    """Lines of 20 words, each line from one of 20 topics of 30 words."""
    rng = np.random.default_rng(0)
    words = rng.zipf(1.3, (1200, 20)) % 30
    return w2v_ext.corpus_from_sequences(words + 30 * rng.integers(20, size=(1200, 1)))


MODELS = {  # (full softmax works with PyTorch's threads)
    "skipgram": {},
    "skipgram-hs": {"loss": "hs"},
    "cbow": {"model": "cbow"},
    "cbow-hs": {"model": "cbow", "loss": "hs"},
    "fasttext": {"model": "fasttext", "lr": 0.005, "buckets": 500, "min_n": 1, "max_n": 2},
    "fasttext-cbow": {"model": "fasttext-cbow", "buckets": 500, "min_n": 1, "max_n": 2},
    "glove": {"model": "glove", "sample": w2v_ext.TrainConfig.sample},  # it uses none
}


@pytest.mark.parametrize("name", MODELS)
def test_threads_learn_together(corpus, name):
    settings = {"dim": 20, "min_count": 1, "epochs": 3, "device": "cpu", "threads": THREADS, "sample": 0}
    trainer = w2v_ext.Trainer(
        corpus, w2v_ext.TrainConfig.for_model(**{"model": "skipgram", **settings, **MODELS[name]})
    )
    trainer.fit()
    losses = trainer.state.losses
    assert losses[-1] < 0.9 * losses[0]
    assert torch.isfinite(trainer.in_weight).all()


@pytest.mark.parametrize("loss", ["softmax", "hs", "ova"])
def test_threads_learn_labels_together(loss):
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{w}" for w in rng.zipf(1.5, 12) % 50) for _ in range(3000)]
    labels = [f"l{i % 7}" for i in range(len(texts))]
    model = TextClassifier(dim=8, epochs=2, threads=THREADS, loss=loss, buckets=200, min_n=2, max_n=3)
    model.fit(texts, labels)
    assert len(model.predict(texts[:500], k=2)) == 500


def test_threads_read_text_together(tmp_path):
    (tmp_path / "t").write_text("some words, and others 词语 too\n" * 60_000 + "x" * 70_000)
    options = w2v_ext.CorpusOptions(tokenizer="word", lowercase=True, errors="replace")
    many = w2v_ext.prepare_corpus(tmp_path / "t", options, cache_dir=tmp_path / "many", threads=THREADS)
    one = w2v_ext.prepare_corpus(tmp_path / "t", options, cache_dir=tmp_path / "one", threads=1)
    assert np.array_equal(many.ids, one.ids)
    assert many.vocab.words == one.vocab.words


def test_threads_spill_and_interrupt(tmp_path):
    builder = _text.Builder(
        tokenizer="whitespace", threads=THREADS, spill_path=str(tmp_path / "s"), spill_after=1 << 12
    )
    builder.begin_source("x")
    for _ in range(20):
        builder.feed(b"some words and others of it\n" * 4000)
    builder.end_source()
    builder.make_vocabulary(1, None, [])
    assert builder.write_ids(str(tmp_path / "ids"), 10_000, 1_000)["num_tokens"] == 20 * 4000 * 6
    stopped = _text.Builder(tokenizer="whitespace", threads=THREADS, spill_path=str(tmp_path / "s2"), spill_after=0)
    stopped.begin_source("y")
    stopped.feed(b"some words\n" * 200_000)
    del stopped  # in the middle of its work


def test_threads_read_and_write_rows_together(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(4000, 30)).astype(np.float32)
    words = [f"w{i}" for i in range(len(vectors))]
    w2v_ext.save_vectors(tmp_path / "v.txt", words, vectors, threads=THREADS)
    table = w2v_ext.load_vectors(tmp_path / "v.txt", threads=THREADS)
    assert table.words == words
    assert np.array_equal(table.vectors, vectors)
