"""The same mathematics in a few lines of plain PyTorch, step by step: what tests and benches compare the model with."""

from __future__ import annotations

import torch
from torch import Tensor

from .encoder import merge_directions
from .model import Seq2SeqModel


def lstm_cell(x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> tuple:
    """One step (Hochreiter and Schmidhuber 1997, with forget gates): x (B, I), h and c (B, H) to the next h and c."""
    i, f, g, o = (x @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def lstm(module: torch.nn.LSTM, x: Tensor, lengths: list[int], h0: Tensor | None, c0: Tensor | None) -> tuple:
    """`nn.LSTM` (batch first, no dropout), one sentence, layer, direction and step at a time."""
    directions = 2 if module.bidirectional else 1
    rows = []
    for b, length in enumerate(lengths):
        sequence, ends = x[b, :length], []
        for layer in range(module.num_layers):
            outputs = []
            for direction in range(directions):
                suffix = f"l{layer}" + ("_reverse" if direction else "")
                weights = [getattr(module, f"{n}_{suffix}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
                row = layer * directions + direction
                h = x.new_zeros(module.hidden_size) if h0 is None else h0[row, b]
                c = x.new_zeros(module.hidden_size) if c0 is None else c0[row, b]
                steps = []
                for t in reversed(range(length)) if direction else range(length):
                    h, c = lstm_cell(sequence[t], h, c, *weights)
                    steps.append(h)
                outputs.append(torch.stack(steps[::-1] if direction else steps))
                ends.append((h, c))
            sequence = torch.cat(outputs, -1)
        padding = sequence.new_zeros(x.shape[1] - length, sequence.shape[1])
        rows.append(
            (torch.cat([sequence, padding]), torch.stack([e[0] for e in ends]), torch.stack([e[1] for e in ends]))
        )
    outputs, h, c = zip(*rows, strict=True)
    return torch.stack(outputs), (torch.stack(h, 1), torch.stack(c, 1))


def attend(attention: torch.nn.Module, query: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """One query (H,) over the outputs of one sentence (S, M), without padding: the context (M,) and weights (S,)."""
    if hasattr(attention, "score"):  # Bahdanau
        sums = query @ attention.query.weight.T + attention.query.bias + values @ attention.key.weight.T
        scores = sums.tanh() @ attention.score.weight[0]
    elif isinstance(attention.key, torch.nn.Identity):
        scores = values @ query
    else:
        scores = values @ attention.key.weight.T @ query
    weights = (scores - scores.max()).exp()
    weights = weights / weights.sum()
    return weights @ values, weights


def forward(model: Seq2SeqModel, src: Tensor, lengths: list[int], tgt: Tensor) -> tuple[Tensor, tuple, list]:
    """Teacher forcing without dropout, as a loop over sentences and steps.

    Returns:
        The logits (B, T, V), the state h and c (layers, B, H) after the last step, and for every sentence the
        attention weights (T, its length), or None.
    """
    encoder, decoder, bridge = model.encoder, model.decoder, model.bridge
    outputs, (h, c) = lstm(encoder.lstm, encoder.embed.embedding.weight[src], lengths, None, None)
    ends = [merge_directions(part, bridge.num_layers, bridge.directions)[bridge.layers] for part in (h, c)]
    if bridge.h:
        ends[0] = torch.stack([(x @ m.weight.T + m.bias).tanh() for x, m in zip(ends[0], bridge.h, strict=True)])
        ends[1] = torch.stack([x @ m.weight.T + m.bias for x, m in zip(ends[1], bridge.c, strict=True)])
    logits, states, alignments = [], [], []
    for b, length in enumerate(lengths):
        values = outputs[b, :length]
        context = values.new_zeros(0)
        if decoder.context_size:
            last = torch.cat(list(h[-bridge.directions :, b]))
            context = {"last": last, "mean": values.mean(0), "max": values.amax(0)}[model.context]
        state, feed = (
            [part[:, b] for part in ends],
            values.new_zeros(decoder.feature_size if decoder.input_feeding else 0),
        )
        steps, weights = [], []
        for t in range(tgt.shape[1]):
            x = torch.cat([decoder.embed.embedding.weight[tgt[b, t]], feed, context])
            y, weight, state = _step(decoder, x, values, context, state)
            feed = y if decoder.input_feeding else feed
            steps.append(y @ decoder.output_weight.T + decoder.output_bias)
            weights.append(weight)
        logits.append(torch.stack(steps))
        states.append(state)
        alignments.append(None if decoder.attention is None else torch.stack(weights))
    final = tuple(torch.stack([state[part] for state in states], 1) for part in (0, 1))
    return torch.stack(logits), final, alignments


def _step(decoder: torch.nn.Module, x: Tensor, values: Tensor, context: Tensor, state: list[Tensor]) -> tuple:
    attended, weight, h_next, c_next = values.new_zeros(0), None, [], []
    for layer in range(decoder.num_layers):
        below = decoder.lstm.num_layers
        module, place = (decoder.lstm, layer) if layer < below else (decoder.upper, layer - below)
        weights = [getattr(module, f"{name}_l{place}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        x, c = lstm_cell(torch.cat([x, attended]) if layer == below else x, state[0][layer], state[1][layer], *weights)
        h_next.append(x)
        c_next.append(c)
        if layer == below - 1 and decoder.attention is not None:
            attended, weight = attend(decoder.attention, x, values)
    if decoder.readout is not None:
        x = (torch.cat([x, attended, context]) @ decoder.readout.weight.T + decoder.readout.bias).tanh()
    return x, weight, [torch.stack(h_next), torch.stack(c_next)]


def cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, label_smoothing: float = 0.0, ignore: int = 0
) -> Tensor:
    """The sum over targets that are not `ignore`, all logits at once."""
    logits = features @ weight.T + (0 if bias is None else bias)
    log_probability = logits - logits.logsumexp(-1, keepdim=True)  # (N, V)
    picked = log_probability.gather(1, target[:, None].clamp(min=0))[:, 0]
    losses = -(1 - label_smoothing) * picked - label_smoothing * log_probability.mean(-1)
    return losses[target != ignore].sum()
