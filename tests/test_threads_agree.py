"""Threads that train at the same time learn what one thread learns, though each brings the rows of frequent words to
their balance by itself: see csrc/cpu/hot_rows.h.

Rows and lines are long, so that a stretch takes longer than a time slice: then all threads are within a stretch
together on any machine, as they are on one with many cores.
"""

import numpy as np
import pytest

import w2v_ext
from w2v_ext.classify import TextClassifier

pytestmark = pytest.mark.usefixtures("one_thread")

MODELS = {
    "skipgram": {},
    "skipgram-hs": {"loss": "hs"},
    "cbow": {"model": "cbow"},
    "cbow-hs": {"model": "cbow", "loss": "hs"},
    "fasttext": {"model": "fasttext", "buckets": 500, "min_n": 1, "max_n": 2},
    "fasttext-cbow": {"model": "fasttext-cbow", "buckets": 500, "min_n": 1, "max_n": 2},
}


@pytest.fixture(scope="module")
def corpus():
    words = np.random.default_rng(0).zipf(1.3, 60_000) % 600  # one of them is a quarter of the text
    return w2v_ext.corpus_from_sequences(words.reshape(-1, 20))


@pytest.mark.parametrize("name", MODELS)
def test_many_threads_find_the_loss_of_one(corpus, name):
    losses = []
    for threads in (1, 8):
        settings = {"model": "skipgram", "dim": 1000, "min_count": 1, "epochs": 3, "device": "cpu", "sample": 0}
        settings |= {"threads": threads, **MODELS[name]}
        losses.append(w2v_ext.Trainer(corpus, w2v_ext.TrainConfig.for_model(**settings)).fit().state.losses)
    one, many = losses
    assert many == pytest.approx(one, rel=0.1)
    assert many[-1] == pytest.approx(one[-1], rel=0.02)


@pytest.mark.parametrize("loss", ["softmax", "ova"])
def test_many_threads_find_the_labels_that_one_does(loss):
    rng, labels = np.random.default_rng(0), [f"l{i % 2}" for i in range(3000)]
    lines = [np.where(rng.random(10) < 0.1, i % 2, rng.integers(2, 200, 10)) for i in range(len(labels))]
    lines[0] = range(17_000)  # in a small vocabulary few words count as frequent
    texts = [" ".join(f"w{word}" for word in line) for line in lines]
    losses = []
    for threads in (1, 8):
        model = TextClassifier(dim=2000, epochs=2, threads=threads, loss=loss, lr=2.0, buckets=1)
        losses.append(model.fit(texts, labels).state.losses)
    one, many = losses
    assert all(m < 2 * o for m, o in zip(many, one, strict=True))  # with plain sums 25 to 4e7 in place of 0.4 and 0.9
