"""What the host does for an epoch on the GPU, tested without one: the device, sentences in flight, streamed chunks."""

import contextlib

import numpy as np
import pytest
import torch

from w2v_ext import TrainConfig, Trainer, corpus_from_sequences, methods, ops
from w2v_ext.methods import cuda_epoch
from w2v_ext.methods.cuda_epoch import choose_device, default_sentences_in_flight, device_weight, sentence_start
from w2v_ext.trainer import TrainingError


class Never:
    """An event or stream of a machine without CUDA."""

    def __init__(self, *_):
        pass

    def wait(self):
        pass

    record = synchronize = wait


@pytest.fixture
def without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Never)
    monkeypatch.setattr(torch.cuda, "Stream", Never)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(cuda_epoch, "_page_locked", lambda count: torch.empty(count, dtype=torch.int32))


def make_ids(sentences=200, seed=0):
    rng = np.random.default_rng(seed)
    ids = [np.append(rng.integers(0, 1000, n), -1) for n in rng.integers(0, 20, sentences)]
    return torch.from_numpy(np.concatenate(ids).astype(np.int32))


@pytest.mark.parametrize("chunk", [20, 64, 1000, 1 << 20])
@pytest.mark.parametrize("piece", [7, 100, 5000])
def test_a_stream_gives_every_place_once_within_whole_sentences(without_cuda, chunk, piece):
    ids = make_ids()
    stream = cuda_epoch._IdStream(ids, chunk, torch.device("cpu"))
    for _ in range(3):  # epochs
        begin = 0
        while begin < len(ids):
            end, seen = min(begin + piece, len(ids)), begin
            for part, first, start, stop in stream.parts(begin, end):
                assert first <= start == seen < stop <= first + len(part)
                assert len(part) <= chunk
                assert first == 0 or ids[first - 1] < 0
                assert part[-1] < 0
                assert torch.equal(part, ids[first : first + len(part)])
                seen = stop
            assert seen == end
            begin = end


@pytest.mark.parametrize("place", [0, 1, 30, 777, 1500])
def test_a_stream_can_begin_anywhere(without_cuda, place):
    ids = make_ids()
    part, first, start, _ = next(cuda_epoch._IdStream(ids, 64, torch.device("cpu")).parts(place, len(ids)))
    assert start == place
    assert first == sentence_start(ids, place)
    assert torch.equal(part, ids[first : first + len(part)])


def test_where_a_sentence_starts():
    ids = torch.tensor([1, 2, -1, -1, 3, 4, -1], dtype=torch.int32)
    assert [sentence_start(ids, place) for place in range(7)] == [0, 0, 0, 3, 4, 4, 4]
    long = torch.zeros(200_000, dtype=torch.int32)
    long[9] = -1
    assert sentence_start(long, 199_999) == 10


def test_where_a_chunk_ends():
    ids = torch.tensor([1, 2, -1, 3, -1, 4, 5, 6, 7, -1, 8], dtype=torch.int32)
    assert [ops.chunk_end(ids, 0, limit) for limit in (3, 4, 5, 9, 10, 11, 99)] == [3, 3, 5, 5, 10, 11, 11]
    with pytest.raises(
        ValueError, match="ids: expected sentences of fewer than 4 words, got a longer one at position 5"
    ):
        ops.chunk_end(ids, 5, 4)
    with pytest.raises(ValueError, match="begin: expected 0 <= begin <= 11, got 12"):
        ops.chunk_end(ids, 12, 4)


def test_sentences_in_flight_are_bounded_by_the_device_and_by_the_hottest_row():
    assert default_sentences_in_flight(132, 1e-4, 5) == 132 * cuda_epoch.WARPS_PER_MULTIPROCESSOR
    assert default_sentences_in_flight(132, 0.1, 5) == int(cuda_epoch.HOT_COPIES / 1.1)
    assert default_sentences_in_flight(132, 0.1, 5, copies=cuda_epoch.HOT_SUM_COPIES) == 116
    assert default_sentences_in_flight(132, 1.0, 1000) == 1
    assert default_sentences_in_flight(132, 0.0, 5) == 132 * cuda_epoch.WARPS_PER_MULTIPROCESSOR


def test_words_of_which_there_are_many_copies_are_hot():
    shares = np.array([0.1, 0.01, 0.001, 0.0])
    assert cuda_epoch.hot_words(500, shares, 5) == 2  # 600, 60 and 6 copies
    assert cuda_epoch.hot_words(1, shares, 5) == 0
    assert cuda_epoch.hot_words(1, np.ones(1), 5) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [1, 7, 8, 100, 300])
def test_rows_on_the_device_are_padded_to_32_bytes(dtype, dim):
    weight = device_weight(3, dim, dtype, torch.device("cpu"))
    assert weight.shape == (3, dim)
    assert weight.stride(0) * dtype.itemsize % 32 == 0
    assert weight.stride(0) * dtype.itemsize < dim * dtype.itemsize + 32
    assert not weight.any()


def test_the_device_that_is_chosen(monkeypatch):
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(RuntimeError, match="is a build without CUDA; use --device cpu"):
        choose_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="PyTorch sees no CUDA device"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(ops, "has_cuda_kernels", lambda: False)
    with pytest.raises(RuntimeError, match="built without its CUDA kernels"):
        choose_device("cuda")
    monkeypatch.setattr(ops, "has_cuda_kernels", lambda: True)
    monkeypatch.setattr(cuda_epoch, "kernel_failure", lambda _: None)
    assert choose_device("cuda") == choose_device("auto") == torch.device("cuda", 0)


def test_a_device_that_runs_no_kernel_is_not_chosen(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(ops, "has_cuda_kernels", lambda: True)
    monkeypatch.setattr(cuda_epoch, "kernel_failure", lambda _: "no kernel image is available")
    message = r"cuda:0 does not run the kernels \(no kernel image is available\)"
    with pytest.raises(RuntimeError, match=message):
        choose_device("cuda")
    with pytest.warns(RuntimeWarning, match=f"training on the CPU: {message}"):
        assert choose_device("auto") == torch.device("cpu")


def test_why_a_device_runs_no_kernel():
    assert "train_sgns_cuda_" in cuda_epoch.kernel_failure(torch.device("cpu"))  # there is no such kernel


@pytest.mark.parametrize(
    "failure",
    [torch.OutOfMemoryError("CUDA out of memory.\nMore"), ValueError("dim, window: expected fewer rows")],
)
def test_a_device_that_is_too_small(monkeypatch, failure):
    def fail(*_):
        raise failure

    monkeypatch.setattr(methods, "choose_device", lambda _: torch.device("cuda", 0))
    monkeypatch.setattr(methods, "CudaEpoch", fail)
    corpus = corpus_from_sequences([[1, 2, 3]] * 20)
    wanted = (TrainingError, "3 words x 8 do not fit cuda:0") if failure.args[0][0] == "C" else (ValueError, "dim, win")
    for changes in ({"device": "cuda"}, {"device": "auto", "weight_dtype": "bfloat16"}):
        with pytest.raises(wanted[0], match=wanted[1]):
            Trainer(corpus, TrainConfig(dim=8, min_count=1, sample=0, **changes))
    with pytest.warns(RuntimeWarning, match="training on the CPU: cuda:0 cannot: (CUDA out of memory.$|dim, window)"):
        trainer = Trainer(corpus, TrainConfig(dim=8, min_count=1, sample=0, device="auto"))
    assert trainer.fit().device == torch.device("cpu")


def test_a_fill_that_is_interrupted_leaves_no_half_filled_buffer(without_cuda, monkeypatch):
    ids = make_ids()
    stream = cuda_epoch._IdStream(ids, 64, torch.device("cpu"))
    list(stream.parts(0, 10))
    held = list(stream._held)

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Never, "synchronize", interrupt)
        with pytest.raises(KeyboardInterrupt):
            stream._fill(0, held[1][0])
    assert stream._held[0] == (0, 0)
    part, first, start, stop = next(stream.parts(0, 10))
    assert (first, start) == (0, 0)
    assert torch.equal(part[:stop], ids[:stop])


# ---- the other models ----------------------------------------------------------------------------------------------

OTHERS = [
    ({"model": "cbow"}, "CudaCbow"),
    ({"loss": "hs"}, "CudaTree"),
    ({"model": "cbow", "loss": "hs"}, "CudaTree"),
    ({"model": "fasttext"}, "CudaFastText"),
    ({"model": "fasttext-cbow"}, "CudaFastText"),
    ({"model": "glove", "sample": TrainConfig.sample}, "CudaGlove"),  # it uses none
]


@pytest.mark.parametrize(("settings", "kind"), OTHERS)
def test_the_other_models_train_on_cuda_where_it_is_named(monkeypatch, settings, kind):
    class Chosen(methods.Method):
        def __init__(self, device, corpus, config):
            self.device, self.weights, self.length = device, {"in_weight": torch.zeros(4, 8)}, len(corpus.ids)

    monkeypatch.setattr(methods, "choose_device", lambda wanted: torch.device("cpu" if wanted == "cpu" else "cuda:0"))
    monkeypatch.setattr(methods, kind, Chosen)
    corpus = corpus_from_sequences([[1, 2, 3]] * 20)
    options = {"dim": 8, "min_count": 1, "sample": 0, **settings}
    on_cuda = Trainer(corpus, TrainConfig(device="cuda", **options))
    assert isinstance(on_cuda.method, Chosen)
    assert on_cuda.device.type == "cuda"
    for device in ("auto", "cpu"):
        assert Trainer(corpus, TrainConfig(device=device, **options)).device.type == "cpu"


@pytest.mark.parametrize(("settings", "kind"), OTHERS)
def test_the_other_models_name_what_they_cannot_do_on_cuda(monkeypatch, settings, kind):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(methods, "choose_device", lambda _: torch.device("cuda", 0))
    monkeypatch.setattr(methods, kind, fail)
    corpus = corpus_from_sequences([[1, 2, 3]] * 20)
    options = {"dim": 8, "min_count": 1, "sample": 0, "device": "cuda", **settings}
    with pytest.raises(TrainingError, match=r"3 words x 8 do not fit cuda:0 \(CUDA out of memory.\); use --device cpu"):
        Trainer(corpus, TrainConfig(**options))
    with pytest.raises(ValueError, match="weight_dtype: expected float32 for model = .*, got 'bfloat16'"):
        Trainer(corpus, TrainConfig(**options, weight_dtype="bfloat16"))


@pytest.mark.parametrize("model", ["fasttext", "fasttext-cbow", "glove"])
@pytest.mark.parametrize("loss", ["hs", "softmax"])
def test_losses_that_a_model_has_not_are_named_on_cuda_too(monkeypatch, model, loss):
    monkeypatch.setattr(methods, "choose_device", lambda _: torch.device("cuda", 0))
    with pytest.raises(ValueError, match=f"loss: expected ns for model = {model}, got '{loss}'"):
        Trainer(corpus_from_sequences([[1, 2, 3]] * 20), TrainConfig(model=model, loss=loss, device="cuda"))
