"""The decoder: one LSTM call for all steps wherever the mathematics allow it, a loop over steps where they do not."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import AttentionName, Memory, make_attention
from .dropout import check_probabilities, dropout
from .encoder import PAD_ID, EmbeddingDropout, EncoderOutput, check_sizes, check_tokens, make_embedding
from .rnn import init_lstm_, run_lstm


class DecoderState(NamedTuple):
    """Where the decoder stands.

    Attributes:
        h, c: (layers, B, H).
        feed: (B, F) features of the last step, with input feeding; else None.
    """

    h: Tensor
    c: Tensor
    feed: Tensor | None = None

    def select(self, rows: Tensor) -> DecoderState:
        """The state of some rows (R,) of the batch, in that order."""
        return DecoderState(self.h[:, rows], self.c[:, rows], None if self.feed is None else self.feed[rows])


class DecoderOutput(NamedTuple):
    """What the decoder says before the output layer.

    Attributes:
        features: (B, T, F).
        state: after the last step.
        attention: (B, T, S) weights, or None.
    """

    features: Tensor
    state: DecoderState
    attention: Tensor | None


class LSTMDecoder(nn.Module):
    """An LSTM language model of the target that begins in the encoder's state and may look at its outputs.

    Features are the LSTM's outputs; with attention, a context or tied weights they are ``tanh(W [output; context])``
    (Luong et al. 2015, eq. 5). Logits are ``features @ output_weight.T + output_bias``.

    Args:
        vocab_size: V of the target.
        embed_size: E.
        hidden_size: H.
        num_layers: of the LSTM.
        attention: "none", "luong" (general), "dot" or "bahdanau".
        memory_size: M, the size of the encoder's outputs; needed with attention.
        deep_attention: attend with the first layer's output, and give the context to the layers above as well as to the
            output, so that the decoder knows what it has looked at (Wu et al. 2016, section 3.3). Needs two layers, and
            unlike input feeding no loop over steps.
        input_feeding: the features of a step are part of the next step's input (Luong et al. 2015, section 3.3). This
            needs a loop over steps.
        context_size: C of a context vector that is part of every step's input and of the features (Cho et al. 2014);
            0 for none.
        tied: the output weight is the embedding's.
        dropout: between layers and on the features; embed_dropout, word_dropout: see `EmbeddingDropout`.
        padding_idx: the padding word.

    Raises:
        ValueError: a size below 1, an unknown attention, or options that exclude each other.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        attention: AttentionName = "none",
        memory_size: int | None = None,
        deep_attention: bool = False,
        input_feeding: bool = False,
        context_size: int = 0,
        tied: bool = False,
        dropout: float = 0.0,
        embed_dropout: float = 0.0,
        word_dropout: float = 0.0,
        padding_idx: int = PAD_ID,
    ) -> None:
        super().__init__()
        check_sizes(vocab_size=vocab_size, embed_size=embed_size, hidden_size=hidden_size, num_layers=num_layers)
        if attention != "none" and not memory_size:
            raise ValueError(
                f"memory_size: expected the size of the encoder's outputs with attention, got {memory_size}"
            )
        if deep_attention and (attention == "none" or num_layers < 2 or input_feeding):
            raise ValueError(
                "deep_attention: expected an attention, two layers or more and no input feeding, got "
                f"attention={attention!r}, num_layers={num_layers}, input_feeding={input_feeding}"
            )
        check_probabilities(dropout=dropout)
        self.num_layers, self.hidden_size, self.vocab_size = num_layers, hidden_size, vocab_size
        self.input_feeding, self.dropout, self.padding_idx = input_feeding, dropout, padding_idx
        self.context_size = context_size
        self.embed = EmbeddingDropout(make_embedding(vocab_size, embed_size, padding_idx), embed_dropout, word_dropout)
        self.attention = make_attention(attention, hidden_size, memory_size or 0)
        attended = (memory_size or 0) if self.attention is not None else 0
        has_readout = tied or attended > 0 or context_size > 0 or input_feeding
        self.feature_size = embed_size if tied else hidden_size
        below = 1 if deep_attention else num_layers
        inputs = embed_size + context_size + (self.feature_size if input_feeding else 0)
        self.lstm = _make_lstm(inputs, hidden_size, below, dropout)
        self.upper = (
            _make_lstm(hidden_size + attended, hidden_size, num_layers - below, dropout) if deep_attention else None
        )
        self.readout = nn.Linear(hidden_size + attended + context_size, self.feature_size) if has_readout else None
        self._output_weight = None if tied else nn.Parameter(torch.empty(vocab_size, self.feature_size))
        self.output_bias = nn.Parameter(torch.zeros(vocab_size))
        if self._output_weight is not None:
            nn.init.normal_(self._output_weight, std=self.feature_size**-0.5)

    @property
    def output_weight(self) -> Tensor:
        """(V, F): the embedding's weight when tied."""
        return self.embed.embedding.weight if self._output_weight is None else self._output_weight

    @property
    def needs_loop(self) -> bool:
        """Whether a step needs the one before even with full teacher forcing."""
        return self.input_feeding

    def memory(self, encoded: EncoderOutput, context: Tensor | None = None) -> Memory:
        """Prepare what the decoder looks at: the keys are computed once for a batch."""
        keys = None if self.attention is None else self.attention.key(encoded.outputs)
        return Memory(encoded.outputs, keys, encoded.mask, context)

    def start(self, h: Tensor, c: Tensor) -> DecoderState:
        """The state before the first step, from (layers, B, H)."""
        return DecoderState(h, c, h.new_zeros(h.shape[1], self.feature_size) if self.input_feeding else None)

    def features(self, tokens: Tensor, state: DecoderState, memory: Memory | None = None) -> DecoderOutput:
        """Read target words and give the features from which the next ones are told.

        Args:
            tokens: (N, T) int32 or int64.
            state: of N rows.
            memory: of B sentences; N may be a multiple of B, with the rows of a sentence side by side (a beam).
        """
        check_tokens(tokens, "tokens")
        if memory is None and (self.attention is not None or self.context_size):
            raise ValueError(
                "memory: expected what the encoder gave, as the decoder has attention or a context, got None"
            )
        batch = 0 if memory is None else memory.mask.shape[0]
        if memory is not None and (batch == 0 or tokens.shape[0] % batch):
            raise ValueError(
                f"memory: expected a batch that divides the {tokens.shape[0]} rows of the state, got {batch}"
            )
        x = self.embed(tokens)  # (N, T, E)
        if not self.needs_loop:
            return self._run(x, state, memory)
        steps, weights = [], []
        for t in range(x.shape[1]):
            out = self._run(torch.cat([x[:, t : t + 1], state.feed[:, None].to(x.dtype)], -1), state, memory)
            state = out.state._replace(feed=out.features[:, 0])
            steps.append(out.features)
            weights.append(out.attention)
        attention = None if self.attention is None else torch.cat(weights, 1)
        return DecoderOutput(torch.cat(steps, 1), state, attention)

    def _run(self, x: Tensor, state: DecoderState, memory: Memory | None) -> DecoderOutput:
        """All steps of x (N, T, inputs) in one LSTM call (two with deep attention)."""
        context = None
        if self.context_size:
            context = _spread(memory.context, x.shape[0])[:, None].expand(-1, x.shape[1], -1).to(x.dtype)
            x = torch.cat([x, context], -1)
        below = self.lstm.num_layers
        y, (h, c) = run_lstm(self.lstm, x, None, (state.h[:below].contiguous(), state.c[:below].contiguous()))
        attended = weights = None
        if self.attention is not None:
            attended, weights = self._attend(y, memory)
        if self.upper is not None:
            above = torch.cat([dropout(y, self.dropout, self.training), attended], -1)
            y, (h2, c2) = run_lstm(
                self.upper, above, None, (state.h[below:].contiguous(), state.c[below:].contiguous())
            )
            h, c = torch.cat([h, h2]), torch.cat([c, c2])
        if self.readout is not None:
            parts = [part for part in (y, attended, context) if part is not None]
            y = self.readout(dropout(torch.cat(parts, -1), self.dropout, self.training)).tanh()
        y = dropout(y, self.dropout, self.training)
        return DecoderOutput(y, DecoderState(h, c, state.feed), weights)

    def _attend(self, query: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """The rows of one sentence stand in the attention as more steps of it: the memory is never repeated."""
        rows, steps, _ = query.shape
        batch = memory.mask.shape[0]
        context, weights = self.attention(query.reshape(batch, rows // batch * steps, -1), memory)
        return context.view(rows, steps, -1), weights.view(rows, steps, -1)

    def logits(self, features: Tensor) -> Tensor:
        """(..., F) to (..., V)."""
        return F.linear(features, self.output_weight, self.output_bias)

    def forward(self, tokens: Tensor, state: DecoderState, memory: Memory | None = None) -> tuple[Tensor, DecoderState]:
        """Target words (B, T) to the logits of the next words (B, T, V), and the state after the last step."""
        out = self.features(tokens, state, memory)
        return self.logits(out.features), out.state


def _make_lstm(inputs: int, size: int, layers: int, dropout: float) -> nn.LSTM:
    lstm = nn.LSTM(inputs, size, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
    init_lstm_(lstm)
    return lstm


def _spread(x: Tensor, rows: int) -> Tensor:
    """Repeat each row (B, C) so that there are `rows`, those of a sentence side by side."""
    return x if x.shape[0] == rows else x.repeat_interleave(rows // max(x.shape[0], 1), 0)
