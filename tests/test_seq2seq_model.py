"""The translation model beside its step-by-step reference: outputs, states, gradients; and what it refuses."""

import pytest
import torch
from torch import nn

from w2v_ext.seq2seq import LSTMDecoder, LSTMEncoder, Seq2SeqModel, reference, rnn
from w2v_ext.seq2seq.attention import make_attention
from w2v_ext.seq2seq.decoder import Memory
from w2v_ext.seq2seq.dropout import dropout
from w2v_ext.seq2seq.encoder import EmbeddingDropout, StateBridge, merge_directions
from w2v_ext.seq2seq.rnn import _run_padded, run_lstm

pytestmark = pytest.mark.usefixtures("one_thread")

VOCAB, LENGTHS = 11, [7, 4, 1]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
SHAPES = {
    "plain": {},
    "plain-two-layers": {"layers": 2},
    "bidirectional": {"bidirectional": True, "layers": 2},
    "deeper-decoder": {"bidirectional": True, "decoder_layers": 3},
    "context-last": {"context": "last", "bidirectional": True, "layers": 2},
    "context-mean-tied": {"context": "mean", "tied": True},
    "context-max": {"context": "max", "layers": 2},
    "luong": {"attention": "luong", "bidirectional": True, "tied": True},
    "dot": {"attention": "dot"},
    "bahdanau": {"attention": "bahdanau", "bidirectional": True, "layers": 2},
    "deep-luong": {"attention": "luong", "layers": 2, "deep": True, "context": "last"},
    "deep-bahdanau": {"attention": "bahdanau", "layers": 3, "deep": True, "bidirectional": True, "tied": True},
    "feeding": {"attention": "luong", "feeding": True, "layers": 2, "tied": True},
    "feeding-bahdanau-context": {"attention": "bahdanau", "feeding": True, "context": "mean", "bidirectional": True},
    "feeding-without-attention": {"feeding": True},
    "shared": {"attention": "luong", "bidirectional": True, "tied": True, "share": True},
}


def make_model(
    layers=1, decoder_layers=None, bidirectional=False, attention="none", deep=False, feeding=False, context="none",
    tied=False, share=False, embed=5, hidden=6, dtype=torch.float64, **drops
):  # fmt: skip
    torch.manual_seed(0)
    encoder = LSTMEncoder(VOCAB, embed, hidden, layers, bidirectional=bidirectional, **drops)
    size = encoder.output_size
    decoder = LSTMDecoder(
        VOCAB, embed, hidden, decoder_layers or layers, attention=attention, memory_size=size, deep_attention=deep,
        input_feeding=feeding, context_size=0 if context == "none" else size, tied=tied, **drops
    )  # fmt: skip
    model = Seq2SeqModel(encoder, decoder, context="last" if context == "none" else context, share_embeddings=share)
    for p in model.parameters():  # also the biases, which begin at zero
        p.data.uniform_(-0.7, 0.7)
    return model.to(dtype)


def make_input(steps=5):
    generator = torch.Generator().manual_seed(1)
    src = torch.randint(3, VOCAB, (3, max(LENGTHS)), generator=generator)
    for row, length in enumerate(LENGTHS):
        src[row, length:] = 0
    return src, torch.tensor(LENGTHS), torch.randint(1, VOCAB, (3, steps), generator=generator)


@pytest.mark.parametrize("name", SHAPES)
def test_agrees_with_the_reference(name):
    model = make_model(**SHAPES[name])
    src, lengths, tgt = make_input()
    state, memory = model.encode(src, lengths)
    out = model.decoder.features(tgt, state, memory)
    logits = model.decoder.logits(out.features)
    expected, (h, c), alignments = reference.forward(model, src, LENGTHS, tgt)
    close = {"rtol": 0, "atol": 1e-10}
    torch.testing.assert_close(logits, expected, **close)
    torch.testing.assert_close(out.state.h, h, **close)
    torch.testing.assert_close(out.state.c, c, **close)
    for row, weights in enumerate(alignments):
        if weights is None:
            assert out.attention is None
            continue
        torch.testing.assert_close(out.attention[row, :, : LENGTHS[row]], weights, **close)
        assert (out.attention[row, :, LENGTHS[row] :] == 0).all()
    slope = torch.randn(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    names, parameters = zip(*model.named_parameters(), strict=True)
    got = torch.autograd.grad((logits * slope).sum(), parameters)
    want = torch.autograd.grad((expected * slope).sum(), parameters)
    for parameter, a, b in zip(names, got, want, strict=True):
        if "embed" in parameter and "decoder" not in parameter:
            assert (a[0] == 0).all() or "share" in name  # padding gets no gradient
        torch.testing.assert_close(a, b, msg=lambda text, parameter=parameter: f"{parameter}: {text}", **close)


@pytest.mark.parametrize("name", ["plain", "bidirectional", "luong", "deep-luong"])
def test_gradcheck(name):
    model = make_model(**SHAPES[name], embed=2 if "luong" != name else 3, hidden=2)
    src, lengths, tgt = make_input(steps=2)
    src, lengths, tgt = src[1:, :4], lengths[1:], tgt[1:]
    names, parameters = zip(*model.named_parameters(), strict=True)

    def run(*values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (src, lengths, tgt))

    assert torch.autograd.gradcheck(run, parameters, atol=1e-7)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_padded_is_packed(dtype, layers, bidirectional, with_state):
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4, layers, batch_first=True, bidirectional=bidirectional).to(dtype)
    x = torch.randn(5, 6, 3, dtype=dtype, requires_grad=True)
    lengths = torch.tensor([6, 1, 3, 6, 2])
    rows = layers * (1 + bidirectional)
    state = tuple(torch.randn(rows, 5, 4, dtype=dtype) for _ in "hc") if with_state else None
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    y, (h, c) = lstm(packed, state)
    want = (nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0], h, c)
    y, (h, c) = run_lstm(lstm, x, lengths, state)
    slopes = [torch.randn_like(part) for part in want]
    leaves = [x, *lstm.parameters()]
    grads = [
        torch.autograd.grad(sum((a * b).sum() for a, b in zip(side, slopes, strict=True)), leaves)
        for side in ((y, h, c), want)
    ]
    for a, b in zip((y, h, c, *grads[0]), (*want, *grads[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE[dtype])


def test_padding_does_not_matter():
    lstm = nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True, bias=False).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    y, state = run_lstm(lstm, x, torch.tensor([5, 2]))
    x[1, 2:] = 1e6
    y2, state2 = run_lstm(lstm, x, torch.tensor([5, 2]))
    assert torch.equal(y, y2) and torch.equal(state[0], state2[0]) and torch.equal(state[1], state2[1])
    assert (y[1, 2:] == 0).all()
    whole, whole_state = run_lstm(lstm, x, torch.tensor([5, 5]))  # nothing to mask: the plain call
    again, again_state = _run_padded(lstm, x, torch.tensor([5, 5]), None)
    torch.testing.assert_close(whole, again, rtol=0, atol=1e-12)
    torch.testing.assert_close(whole_state, again_state, rtol=0, atol=1e-12)


def test_bfloat16_holds_finished_sentences():
    torch.manual_seed(0)
    lstm = nn.LSTM(32, 32, batch_first=True)
    x, lengths = torch.randn(4, 9, 32), torch.tensor([9, 1, 5, 8])
    with torch.autocast("cpu", torch.bfloat16):
        y, (h, c) = run_lstm(lstm, x, lengths)
    want, (h2, c2) = run_lstm(lstm, x, lengths)
    for a, b in ((y, want), (h, h2), (c, c2)):
        torch.testing.assert_close(a.float(), b, rtol=0, atol=0.02)


def test_autocast_on_a_cpu_without_a_16_bit_lstm(monkeypatch):
    # oneDNN has none without AVX-512, and says so by an error.
    monkeypatch.setattr(rnn, "cpu_lstm_takes", lambda dtype: False)
    torch.manual_seed(0)
    lstm = nn.LSTM(8, 16, 2, batch_first=True, bidirectional=True)
    x, lengths = torch.randn(3, 5, 8, requires_grad=True), torch.tensor([5, 1, 4])
    start = tuple(torch.randn(4, 3, 16).bfloat16() for _ in range(2))
    for given in (None, lengths):
        for state in (None, start):
            with torch.autocast("cpu", torch.bfloat16):
                y, (h, c) = run_lstm(lstm, x, given, state)
                assert torch.is_autocast_enabled("cpu")
            want, (h2, c2) = run_lstm(lstm, x, given, state and tuple(part.float() for part in state))
            for a, b in ((y, want), (h, h2), (c, c2)):
                assert torch.equal(a, b.bfloat16())
    y.sum().backward()
    assert x.grad.abs().sum() > 0


def test_directions_are_merged_layer_by_layer():
    layers, batch, size = 3, 2, 4
    state = torch.arange(layers * 2 * batch * size).view(layers * 2, batch, size)
    merged = merge_directions(state, layers, 2)
    for layer in range(layers):
        assert torch.equal(merged[layer], torch.cat([state[2 * layer], state[2 * layer + 1]], -1))
    bridge = StateBridge(nn.LSTM(4, 4, 2), 3, 4)  # no map: sizes are equal
    h, c = bridge((state[:2].float(), state[2:4].float()))
    assert not list(bridge.parameters()) and torch.equal(h[2], h[1]) and torch.equal(c[0], state[2].float())


def test_teacher_forcing_step_by_step_is_one_call():
    src, lengths, tgt = make_input()
    for name in ("plain", "deep-luong", "feeding"):
        model = make_model(**SHAPES[name])
        whole = model(src, lengths, tgt)
        state, memory = model.encode(src, lengths)
        steps = []
        for t in range(tgt.shape[1]):
            logits, state = model.decoder(tgt[:, t : t + 1], state, memory)
            steps.append(logits)
        torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=0, atol=1e-12)


def test_without_teacher_forcing_it_reads_its_own_words():
    model = make_model(**SHAPES["luong"])
    src, lengths, tgt = make_input()
    logits = model(src, lengths, tgt, 0.0)
    own = torch.cat([tgt[:, :1], logits.argmax(-1)[:, :-1]], 1)
    torch.testing.assert_close(model(src, lengths, own), logits, rtol=0, atol=1e-12)
    assert not torch.equal(own, tgt)
    torch.manual_seed(0)
    half = model(src, lengths, tgt, 0.5)
    assert not torch.allclose(half, logits) and not torch.allclose(half, model(src, lengths, tgt))


def test_lengths_are_counted_where_they_are_not_given():
    model = make_model(**SHAPES["bidirectional"])
    src, lengths, tgt = make_input()
    assert torch.equal(model(src, None, tgt), model(src, lengths, tgt))


def test_generate_ends_rows_one_by_one():
    model = make_model(**SHAPES["plain"])
    model.encoder.embed.embedding.weight.data.mul_(3)  # so that sentences differ
    src, lengths, _ = make_input()
    model.train()
    ends = set()
    for step in range(40):
        with torch.no_grad():
            model.decoder.output_bias[2] = step * 0.1 - 1
        words = model.generate(src, lengths, max_len=12)
        assert model.training and words.shape[0] == 3 and words.shape[1] <= 12
        for row, length in zip(words.tolist(), LENGTHS, strict=True):
            end = row.index(2) if 2 in row else len(row)
            assert all(word == 0 for word in row[end + 1 :]) and 0 not in row[:end] and 1 not in row[:end]
            ends.add((step, end))
            i = LENGTHS.index(length)
            alone = model.generate(src[i : i + 1, :length], lengths[i : i + 1], max_len=12)[0].tolist()
            assert row[: len(alone)] == alone
    assert len(ends) > 41  # in some step not all ended together
    with torch.no_grad():
        model.decoder.output_bias[2] = 1e3
    assert model.generate(src, lengths).tolist() == [[2], [2], [2]]


def test_dropout_is_dropout():
    torch.manual_seed(0)
    x = torch.ones(1000, 1003, requires_grad=True)
    y = dropout(x, 0.3, True)
    (slope,) = torch.autograd.grad(y.sum(), x)
    kept = (y != 0).float().mean().item()
    assert kept == pytest.approx(0.7, abs=2e-3) and torch.equal(slope, y.detach())
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / 0.7), rtol=1e-4, atol=0)
    assert (y != 0).float().mean(0).std() < 0.03 and (y != 0).float().mean(1).std() < 0.03
    assert dropout(x, 0.3, False) is x and torch.equal(dropout(x, 0.0, True), x)
    assert (dropout(x, 1.0, True) == 0).all() and dropout(torch.ones(0, 3), 0.5, True).shape == (0, 3)
    torch.manual_seed(0)
    assert torch.equal(dropout(x, 0.3, True), y)


def test_word_dropout_drops_words():
    embed = EmbeddingDropout(nn.Embedding(5, 8), word_dropout=0.25)
    tokens = torch.ones(100, 100, dtype=torch.int64)
    torch.manual_seed(0)
    x = embed(tokens)
    gone = (x == 0).all(-1)
    assert gone.float().mean().item() == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(x[~gone][0], embed.embedding.weight[1] / 0.75)
    assert torch.equal(embed.eval()(tokens)[0, 0], embed.embedding.weight[1])


def test_shared_and_tied_weights_are_one():
    model = make_model(**SHAPES["shared"])
    assert model.encoder.embed.embedding.weight is model.decoder.embed.embedding.weight is model.decoder.output_weight
    assert len([p for p in model.parameters() if p.shape == (VOCAB, 5)]) == 1
    model.flatten_parameters()


def test_a_beam_stands_side_by_side():
    for name in ("deep-luong", "feeding-bahdanau-context"):
        model = make_model(**SHAPES[name])
        src, lengths, tgt = make_input(steps=1)
        state, memory = model.encode(src, lengths)
        rows = torch.tensor([0, 0, 1, 1, 2, 2])
        beams = model.decoder.features(tgt[rows], state.select(rows), memory)
        single = model.decoder.features(tgt, state, memory)
        torch.testing.assert_close(beams.features, single.features[rows], rtol=0, atol=1e-12)
        torch.testing.assert_close(beams.attention, single.attention[rows], rtol=0, atol=1e-12)
        with pytest.raises(ValueError, match="memory: expected a batch that divides the 2 rows of the state, got 3"):
            model.decoder.features(tgt[:2], state.select(rows[:2]), memory)


ENCODER = {"vocab_size": 9, "embed_size": 4, "hidden_size": 4}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LSTMEncoder(0, 4, 4), "vocab_size: expected an integer >= 1, got 0"),
        (lambda: LSTMEncoder(9, 4, 2.5), "hidden_size: expected an integer >= 1, got 2.5"),
        (lambda: LSTMDecoder(9, 4, 4, True), "num_layers: expected an integer >= 1, got True"),
        (
            lambda: LSTMDecoder(9, 4, 4, attention="self", memory_size=4),
            "attention: expected one of none, luong, dot, ",
        ),
        (lambda: LSTMDecoder(9, 4, 4, attention="luong"), "memory_size: expected the size of the encoder's outputs"),
        (lambda: LSTMDecoder(9, 4, 4, attention="dot", memory_size=8), "memory_size: expected 4, as the query, "),
        (
            lambda: LSTMDecoder(9, 4, 4, attention="luong", memory_size=4, deep_attention=True),
            "deep_attention: expected an attention, two layers or more and no input feeding, got attention='luong'",
        ),
        (
            lambda: Seq2SeqModel(LSTMEncoder(**ENCODER), LSTMDecoder(9, 4, 4, context_size=3)),
            "context_size: expected 4, the size of the encoder's outputs, and a context, got 3 with context='last'",
        ),
        (
            lambda: Seq2SeqModel(LSTMEncoder(**ENCODER), LSTMDecoder(9, 4, 4), context="all"),
            "context: expected one of none, last, mean, max, got 'all'",
        ),
        (
            lambda: Seq2SeqModel(LSTMEncoder(**ENCODER), LSTMDecoder(9, 4, 4, attention="luong", memory_size=8)),
            "memory_size: expected 4, the size of the encoder's outputs, got 8",
        ),
        (
            lambda: Seq2SeqModel(LSTMEncoder(**ENCODER), LSTMDecoder(8, 4, 4), share_embeddings=True),
            r"share_embeddings: expected embeddings of one shape, got \(9, 4\) and \(8, 4\)",
        ),
        (lambda: make_model()(*make_input(), 1.5), "teacher_forcing: expected a number between 0 and 1, got 1.5"),
        (lambda: make_model().generate(make_input()[0], max_len=0), "max_len: expected an integer >= 1, got 0"),
        (
            lambda: make_model().encoder(torch.zeros(3, 2)),
            "src: expected int32 or int64 of shape .B, T., got torch.float",
        ),
        (
            lambda: make_model()(*make_input()[:2], torch.zeros(3, dtype=torch.int64)),
            r"tgt: expected int32 or int64 of shape \(B, T\), got torch.int64 \(3,\)",
        ),
        (
            lambda: make_model().encoder(make_input()[0], torch.tensor([7, 4, 0])),
            "lengths: expected numbers between 1 and 7, got 0 to 7",
        ),
        (
            lambda: make_model().encoder(make_input()[0], torch.tensor([7, 4])),
            r"lengths: expected integers of shape \(3,\), got torch.int64 of shape \(2,\)",
        ),
        (lambda: run_lstm(nn.LSTM(2, 2), torch.zeros(1, 1, 2)), "lstm: expected batch_first=True"),
        (
            lambda: make_model(attention="dot").decoder.features(make_input()[2], None),
            "memory: expected what the encoder gave, as the decoder has attention or a context, got None",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_attention_ignores_padding_and_sums_to_one():
    for name in ("luong", "dot", "bahdanau"):
        attention = make_attention(name, 4, 4).double()
        values = torch.randn(2, 3, 4, dtype=torch.float64)
        mask = torch.tensor([[True, True, False], [True, True, True]])
        query = torch.randn(2, 5, 4, dtype=torch.float64)
        context, weights = attention(query, Memory(values, attention.key(values), mask, None))
        assert (weights[0, :, 2] == 0).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5, dtype=torch.float64))
        for row in range(2):
            for step in range(5):
                want, w = reference.attend(attention, query[row, step], values[row, : 2 + row])
                torch.testing.assert_close(context[row, step], want, rtol=0, atol=1e-12)
                torch.testing.assert_close(weights[row, step, : 2 + row], w, rtol=0, atol=1e-12)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and a CUDA build of PyTorch")
@pytest.mark.parametrize("name", SHAPES)
def test_cuda_agrees_with_the_reference(name):
    cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        model = make_model(**SHAPES[name])
        src, lengths, tgt = make_input()
        expected = reference.forward(model, src, LENGTHS, tgt)[0]
        parameters = list(model.parameters())
        want = torch.autograd.grad(expected.square().sum(), parameters)
        device = make_model(**SHAPES[name], dtype=torch.float32).cuda()
        device.load_state_dict(model.state_dict())
        device.flatten_parameters()
        logits = device(src.cuda(), lengths, tgt.cuda())
        torch.testing.assert_close(logits.double().cpu(), expected, rtol=1e-4, atol=1e-5)
        got = torch.autograd.grad(logits.square().sum(), list(device.parameters()))
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a.double().cpu(), b, rtol=1e-3, atol=1e-4)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = cudnn, matmul


def test_greedy_translation_leaves_frozen_parts_frozen():
    model = Seq2SeqModel(LSTMEncoder(20, 4, 6), LSTMDecoder(20, 4, 6, memory_size=6))
    model.train()
    model.encoder.eval()
    model.generate(torch.full((2, 3), 5), max_len=2)
    assert model.training and model.decoder.training and model.decoder.lstm.training
    assert not model.encoder.training and not model.encoder.lstm.training


@pytest.mark.parametrize("name", ["dropout", "embed_dropout", "word_dropout"])
@pytest.mark.parametrize("value", [-0.5, 1.0, 1.5])
def test_what_is_no_probability(name, value):
    for make in (lambda **k: LSTMEncoder(20, 4, 6, **k), lambda **k: LSTMDecoder(20, 4, 6, memory_size=6, **k)):
        with pytest.raises(ValueError, match=rf"{name}: expected a number in \[0, 1\), got {value}"):
            make(**{name: value})


@pytest.mark.parametrize("lengths", [torch.tensor([2.9, 1.0]), torch.tensor([True, True])])
def test_lengths_are_integers(lengths):
    with pytest.raises(ValueError, match=r"lengths: expected integers of shape \(2,\), got torch.(float32|bool)"):
        LSTMEncoder(20, 4, 6)(torch.full((2, 3), 5), lengths)
