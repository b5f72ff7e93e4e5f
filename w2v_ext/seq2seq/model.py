"""The model: an encoder, a decoder, and what joins them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .attention import Memory
from .decoder import DecoderOutput, DecoderState, LSTMDecoder
from .encoder import EOS_ID, PAD_ID, SOS_ID, LSTMEncoder, StateBridge, check_tokens

ContextName = Literal["none", "last", "mean", "max"]


class Seq2SeqModel(nn.Module):
    """Encoder, bridge and decoder.

    Args:
        encoder, decoder: their words 0 to 3 are <PAD>, <SOS>, <EOS> and <UNK>.
        context: what the decoder is given in every step, where it has a context: "last" (the last layer's state at the
            sentence's end, both directions), or the "mean" or "max" of the outputs.
        share_embeddings: encoder and decoder have one embedding; their vocabularies must be one.
        bridge: maps between the states even where sizes are equal.

    Raises:
        ValueError: the parts do not fit: sizes of memory, context, or embeddings.

    Example::

        encoder = LSTMEncoder(10_000, 256, 512)
        decoder = LSTMDecoder(8_000, 256, 512)
        model = Seq2SeqModel(encoder, decoder)
        logits = model(src, src_lengths, tgt[:, :-1])            # teacher forcing, (B, T, V)
        words = model.generate(src, src_lengths, max_len=50)     # greedy, (B, <= 50)
    """

    def __init__(
        self,
        encoder: LSTMEncoder,
        decoder: LSTMDecoder,
        *,
        context: ContextName = "last",
        share_embeddings: bool = False,
        bridge: bool = False,
    ) -> None:
        super().__init__()
        if context not in ContextName.__args__:
            raise ValueError(f"context: expected one of {', '.join(ContextName.__args__)}, got {context!r}")
        if decoder.context_size and (context == "none" or decoder.context_size != encoder.output_size):
            raise ValueError(
                f"context_size: expected {encoder.output_size}, the size of the encoder's outputs, and a context, got "
                f"{decoder.context_size} with context={context!r}"
            )
        expected = decoder.attention is None or _memory_size(decoder) == encoder.output_size
        if not expected:
            raise ValueError(
                f"memory_size: expected {encoder.output_size}, the size of the encoder's outputs, got "
                f"{_memory_size(decoder)}"
            )
        self.encoder, self.decoder, self.context = encoder, decoder, context
        self.bridge = StateBridge(encoder.lstm, decoder.num_layers, decoder.hidden_size, always=bridge)
        if share_embeddings:
            mine, other = encoder.embed.embedding.weight, decoder.embed.embedding.weight
            if mine.shape != other.shape:
                raise ValueError(
                    f"share_embeddings: expected embeddings of one shape, got {tuple(mine.shape)} and "
                    f"{tuple(other.shape)}"
                )
            encoder.embed.embedding = decoder.embed.embedding

    def encode(self, src: Tensor, lengths: Tensor | None = None) -> tuple[DecoderState, Memory]:
        """Read the source (B, S): the decoder's first state, and what it may look at."""
        encoded = self.encoder(src, lengths)
        h, c = self.bridge(encoded.state)
        context = None
        if self.decoder.context_size:
            if self.context == "last":
                directions = 2 if self.encoder.lstm.bidirectional else 1
                context = torch.cat(list(encoded.state[0][-directions:]), -1)  # (B, directions x H)
            elif self.context == "mean":
                context = encoded.outputs.sum(1) / encoded.mask.sum(1, keepdim=True)
            else:
                context = encoded.outputs.masked_fill(~encoded.mask[..., None], float("-inf")).amax(1)
        return self.decoder.start(h, c), self.decoder.memory(encoded, context)

    def features(self, src: Tensor, src_lengths: Tensor | None, tgt: Tensor) -> DecoderOutput:
        """Teacher forcing up to the output layer, for losses that never hold all logits; see `loss`."""
        state, memory = self.encode(src, src_lengths)
        return self.decoder.features(tgt, state, memory)

    def forward(self, src: Tensor, src_lengths: Tensor | None, tgt: Tensor, teacher_forcing: float = 1.0) -> Tensor:
        """Logits of the next words.

        Args:
            src: (B, S) source words, padded with 0 at the end.
            src_lengths: (B,) integers, best on the CPU; None counts the words that are not padding.
            tgt: (B, T) target words that the decoder reads: <SOS> first.
            teacher_forcing: the probability that a step reads the word of `tgt` and not the model's own last one (the
                same for the whole batch). Below 1 the steps are taken one by one.

        Returns:
            (B, T, V).
        """
        if not 0 <= teacher_forcing <= 1:
            raise ValueError(f"teacher_forcing: expected a number between 0 and 1, got {teacher_forcing}")
        check_tokens(tgt, "tgt")
        state, memory = self.encode(src, src_lengths)
        if teacher_forcing == 1:
            return self.decoder(tgt, state, memory)[0]
        logits, token = [], tgt[:, :1]
        taught = (torch.rand(tgt.shape[1]) < teacher_forcing).tolist()
        for t in range(tgt.shape[1]):
            step, state = self.decoder(tgt[:, t : t + 1] if taught[t] or t == 0 else token, state, memory)
            token = step.detach().argmax(-1).to(tgt.dtype)
            logits.append(step)
        return torch.cat(logits, 1)

    @torch.no_grad()
    def generate(self, src: Tensor, src_lengths: Tensor | None = None, max_len: int = 100) -> Tensor:
        """Greedy translation.

        Returns:
            (B, T) int64, T <= `max_len`: words, <EOS> and <PAD> after it. Dropout is off meanwhile.
        """
        if max_len < 1:
            raise ValueError(f"max_len: expected an integer >= 1, got {max_len}")
        training = [module for module in self.modules() if module.training]  # some may be frozen
        self.eval()
        try:
            state, memory = self.encode(src, src_lengths)
            token = torch.full((src.shape[0], 1), SOS_ID, dtype=torch.int64, device=src.device)
            finished = torch.zeros_like(token, dtype=torch.bool)
            words = []
            for _ in range(max_len):
                logits, state = self.decoder(token, state, memory)
                logits[..., [PAD_ID, SOS_ID]] = float("-inf")
                token = logits.argmax(-1).masked_fill_(finished, PAD_ID)
                words.append(token)
                finished = finished | (token == EOS_ID)
                if bool(finished.all()):
                    break
            return torch.cat(words, 1)
        finally:
            for module in training:
                module.training = True

    def flatten_parameters(self) -> None:
        """Lay the weights of every LSTM out as cuDNN wants them; for when weights were replaced."""
        for module in self.modules():
            if isinstance(module, nn.LSTM):
                module.flatten_parameters()


def _memory_size(decoder: LSTMDecoder) -> int:
    extra = decoder.hidden_size + decoder.context_size
    return decoder.readout.in_features - extra
