"""The encoder, and the bridge from its last states to the decoder's first."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..embeddings import init_embedding_
from .dropout import check_probabilities, dropout
from .rnn import LSTMState, check_lengths, init_lstm_, run_lstm

PAD_ID, SOS_ID, EOS_ID, UNK_ID = range(4)  # the places of w2v_ext.vocab.SPECIALS


class EncoderOutput(NamedTuple):
    """What the encoder says of a batch.

    Attributes:
        outputs: (B, S, directions x H), zero at padding.
        state: h and c, each (layers x directions, B, H), at each sentence's end.
        mask: (B, S) bool, true at tokens.
    """

    outputs: Tensor
    state: LSTMState
    mask: Tensor


class EmbeddingDropout(nn.Module):
    """Looks words up, drops whole words (their vectors become zero) and then single numbers.

    Args:
        embedding: of the words.
        dropout: probability of each number.
        word_dropout: probability of each word in its place (Gal and Ghahramani 2016; Sennrich and Zhang 2019).
    """

    def __init__(self, embedding: nn.Embedding, dropout: float = 0.0, word_dropout: float = 0.0) -> None:
        super().__init__()
        check_probabilities(embed_dropout=dropout, word_dropout=word_dropout)
        self.embedding, self.dropout, self.word_dropout = embedding, dropout, word_dropout

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T) to vectors (B, T, E)."""
        x = self.embedding(tokens)
        if self.training and self.word_dropout:
            keep = torch.rand(tokens.shape, device=x.device) >= self.word_dropout
            x = x * keep[..., None].to(x.dtype) / (1 - self.word_dropout)
        return dropout(x, self.dropout, self.training)


def make_embedding(vocab_size: int, embed_size: int, padding_idx: int) -> nn.Embedding:
    """An embedding whose rows have length about 1, so that it may be the output weight; that of padding is zero."""
    embedding = nn.Embedding(vocab_size, embed_size, padding_idx=padding_idx)
    init_embedding_(embedding.weight, "normal", padding_idx=padding_idx)
    return embedding


def check_sizes(**sizes: int) -> None:
    """Raise ValueError unless every size is a whole number >= 1."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected an integer >= 1, got {value!r}")


def check_tokens(tokens: Tensor, name: str) -> None:
    """Raise ValueError unless tokens are (B, T) int32 or int64."""
    if tokens.dim() != 2 or tokens.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{name}: expected int32 or int64 of shape (B, T), got {tokens.dtype} {tuple(tokens.shape)}")


class LSTMEncoder(nn.Module):
    """An LSTM over the source.

    Args:
        vocab_size: V.
        embed_size: E.
        hidden_size: H, of each direction.
        num_layers: of the LSTM.
        bidirectional: read the source from both sides; outputs and states are then twice as many.
        dropout: between layers and on the outputs.
        embed_dropout, word_dropout: see `EmbeddingDropout`.
        padding_idx: the padding word, whose vector is zero.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        embed_dropout: float = 0.0,
        word_dropout: float = 0.0,
        padding_idx: int = PAD_ID,
    ) -> None:
        super().__init__()
        check_sizes(vocab_size=vocab_size, embed_size=embed_size, hidden_size=hidden_size, num_layers=num_layers)
        check_probabilities(dropout=dropout)
        self.padding_idx, self.dropout = padding_idx, dropout
        self.embed = EmbeddingDropout(make_embedding(vocab_size, embed_size, padding_idx), embed_dropout, word_dropout)
        self.lstm = nn.LSTM(
            embed_size,
            hidden_size,
            num_layers,
            batch_first=True,
            dropout=dropout if num_layers > 1 else 0.0,
            bidirectional=bidirectional,
        )
        init_lstm_(self.lstm)

    @property
    def output_size(self) -> int:
        """The size of an output: directions x H."""
        return self.lstm.hidden_size * (2 if self.lstm.bidirectional else 1)

    def forward(self, src: Tensor, lengths: Tensor | None = None) -> EncoderOutput:
        """Encode sentences.

        Args:
            src: (B, S) int32 or int64 words, padded at the end.
            lengths: (B,) integers >= 1, best on the CPU; by default the words that are not padding are counted.
        """
        check_tokens(src, "src")
        if lengths is None:
            lengths = (src != self.padding_idx).sum(1).clamp_(min=1)
        lengths = check_lengths(lengths, *src.shape)
        outputs, state = run_lstm(self.lstm, self.embed(src), lengths)
        mask = torch.arange(src.shape[1], device=src.device) < lengths.to(src.device)[:, None]  # (B, S)
        return EncoderOutput(dropout(outputs, self.dropout, self.training), state, mask)


def merge_directions(state: Tensor, num_layers: int, directions: int) -> Tensor:
    """(layers x directions, B, H), layer-major, to (layers, B, directions x H): forward first, then backward."""
    _, batch, size = state.shape
    by_layer = state.view(num_layers, directions, batch, size)
    return by_layer.transpose(1, 2).reshape(num_layers, batch, directions * size)


class StateBridge(nn.Module):
    """Makes the decoder's first state of the encoder's last.

    The directions of each layer are joined; then, unless the sizes are equal already, each decoder layer has a linear
    map of its own, followed by tanh for h (c is not bounded). Decoder layers beyond the encoder's take its last layer.

    Args:
        encoder: the encoder's LSTM.
        decoder_layers, decoder_size: of the decoder.
        always: a map even where sizes are equal.
    """

    def __init__(self, encoder: nn.LSTM, decoder_layers: int, decoder_size: int, *, always: bool = False) -> None:
        super().__init__()
        self.num_layers, self.directions = encoder.num_layers, 2 if encoder.bidirectional else 1
        size = self.directions * encoder.hidden_size
        self.layers = [min(layer, encoder.num_layers - 1) for layer in range(decoder_layers)]
        is_needed = always or size != decoder_size
        self.h = nn.ModuleList(nn.Linear(size, decoder_size) for _ in self.layers if is_needed)
        self.c = nn.ModuleList(nn.Linear(size, decoder_size) for _ in self.layers if is_needed)

    def forward(self, state: LSTMState) -> LSTMState:
        """(layers x directions, B, H) of the encoder to (layers, B, H) of the decoder, both h and c."""
        h, c = (merge_directions(part, self.num_layers, self.directions)[self.layers] for part in state)
        if self.h:
            h = torch.stack([linear(part) for linear, part in zip(self.h, h, strict=True)]).tanh()
            c = torch.stack([linear(part) for linear, part in zip(self.c, c, strict=True)])
        return h.contiguous(), c.contiguous()
