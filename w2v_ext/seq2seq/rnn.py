"""LSTM layers over sequences of different lengths: one cuDNN call on CUDA, oneDNN calls on the CPU."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .dropout import dropout

LSTMState = tuple[Tensor, Tensor]
"""h and c, each (layers x directions, B, H), layer-major as `nn.LSTM` has them."""

_HOLD_INPUTS = 16  # further inputs that say "padding", one would do: oneDNN is half as fast with 257 inputs as with 272
_HOLD = 1000.0  # sigmoid of it is 1 and of its negative 0, exactly, in every float type


def check_lengths(lengths: Tensor, batch: int, steps: int) -> Tensor:
    """Return lengths as int64 (B,) on the CPU.

    Raises:
        ValueError: they are not (B,) integers between 1 and `steps`.
    """
    if lengths.shape != (batch,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ValueError(
            f"lengths: expected integers of shape ({batch},), got {lengths.dtype} of shape {tuple(lengths.shape)}"
        )
    lengths = lengths.to("cpu", torch.int64)
    if batch and not (1 <= int(lengths.min()) and int(lengths.max()) <= steps):
        raise ValueError(
            f"lengths: expected numbers between 1 and {steps}, got {int(lengths.min())} to {int(lengths.max())}"
        )
    return lengths


@functools.cache
def cpu_lstm_takes(dtype: torch.dtype) -> bool:
    """Whether PyTorch's LSTM runs on this CPU under autocast to a dtype: oneDNN has no bfloat16 without AVX-512."""
    one = torch.zeros(1, 1, 1)
    try:
        with torch.no_grad(), torch.autocast("cpu", dtype):
            torch.lstm(one, (one, one), [torch.zeros(4, 1)] * 2, False, 1, 0.0, False, False, True)
    except RuntimeError:
        return False
    return True


def run_lstm(
    lstm: nn.LSTM, x: Tensor, lengths: Tensor | None = None, state: LSTMState | None = None
) -> tuple[Tensor, LSTMState]:
    """Run an LSTM over a padded batch.

    The same as packing the batch, whatever the device: padding changes neither outputs nor states nor gradients, and
    the backward direction begins at each sequence's own end. On CUDA the batch is packed (one cuDNN call). On the CPU
    packed sequences would leave oneDNN for a loop of PyTorch's own (measured, bfloat16, (128, 16, 256) to 512 units,
    forward and backward: 51 ms packed, 30 ms padded), so each layer and direction is one call over padded steps in
    which the forget gate is held open and the input gate shut: the cell of a finished sequence stays what it is.
    Under autocast on a CPU that has no 16-bit LSTM (:func:`cpu_lstm_takes`) the layers compute in float32, and what
    they give is rounded.

    Args:
        lstm: with `batch_first=True`.
        x: (B, T, input size).
        lengths: (B,) integers on the CPU, 1 to T; None: all T.
        state: (h, c), each (layers x directions, B, H); None: zeros.

    Returns:
        Outputs (B, T, directions x H), zero beyond a sequence's end, and the state at each sequence's end.
    """
    if not lstm.batch_first:
        raise ValueError("lstm: expected batch_first=True")
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        if not cpu_lstm_takes(dtype):
            with torch.autocast("cpu", enabled=False):
                state = state if state is None else (state[0].float(), state[1].float())
                y, (h, c) = run_lstm(lstm, x.float(), lengths, state)
            return y.to(dtype), (h.to(dtype), c.to(dtype))
    batch, steps = x.shape[:2]
    if lengths is not None:
        lengths = check_lengths(lengths, batch, steps)
    if lengths is None or batch == 0 or int(lengths.min()) == steps:
        return lstm(x, state)
    if x.device.type != "cpu":
        packed, state = lstm(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False), state)
        return pad_packed_sequence(packed, batch_first=True, total_length=steps)[0], state
    return _run_padded(lstm, x, lengths, state)


def _run_padded(lstm: nn.LSTM, x: Tensor, lengths: Tensor, state: LSTMState | None) -> tuple[Tensor, LSTMState]:
    batch, steps = x.shape[:2]
    directions = 2 if lstm.bidirectional else 1
    place = torch.arange(steps)
    beyond = place >= lengths[:, None]  # (B, T)
    reverse = torch.where(beyond, place, lengths[:, None] - 1 - place)  # (B, T), its own inverse
    is_padding = beyond[..., None].expand(batch, steps, _HOLD_INPUTS).to(x.dtype)
    last = (lengths - 1)[:, None, None].expand(batch, 1, lstm.hidden_size)
    x = x.masked_fill(beyond[..., None], 0)  # or what stands there might outweigh the hold
    h_ends, c_ends = [], []
    for layer in range(lstm.num_layers):
        if layer:
            x = dropout(x, lstm.dropout, lstm.training)
        outputs = []
        for direction in range(directions):
            row = layer * directions + direction
            start = (
                (x.new_zeros(1, batch, lstm.hidden_size),) * 2
                if state is None
                else (state[0][row : row + 1], state[1][row : row + 1])
            )
            inputs = _take(x, reverse) if direction else x
            weights = _holding_weights(lstm, layer, direction)
            y, _, c = torch.lstm(
                torch.cat([inputs, is_padding], -1), start, weights, lstm.bias, 1, 0.0, lstm.training, False, True
            )
            h_ends.append(y.gather(1, last)[:, 0])
            c_ends.append(c[0])
            outputs.append(_take(y, reverse) if direction else y)
        x = torch.cat(outputs, -1) if directions == 2 else outputs[0]
        x = x.masked_fill(beyond[..., None], 0)
    return x, (torch.stack(h_ends), torch.stack(c_ends))


def _take(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[..., None].expand(x.shape))


def _holding_weights(lstm: nn.LSTM, layer: int, direction: int) -> list[Tensor]:
    """The weights of one layer and direction, and inputs that shut the input gate and open the forget gate."""
    suffix = f"l{layer}" + ("_reverse" if direction else "")
    weight = getattr(lstm, f"weight_ih_{suffix}")
    hold = weight.new_zeros(4, lstm.hidden_size, _HOLD_INPUTS)  # gates i, f, g, o
    hold[0, :, 0], hold[1, :, 0] = -_HOLD, _HOLD
    weights = [torch.cat([weight, hold.flatten(0, 1)], 1), getattr(lstm, f"weight_hh_{suffix}")]
    if lstm.bias:
        weights += [getattr(lstm, f"bias_ih_{suffix}"), getattr(lstm, f"bias_hh_{suffix}")]
    return weights


def init_lstm_(lstm: nn.LSTM, forget_bias: float = 1.0) -> None:
    """Glorot for what enters, orthogonal for what recurs (gate by gate), and the forget gate open at first.

    Jozefowicz et al. 2015 for the forget bias, Saxe et al. 2014 for the orthogonal matrices.
    """
    size = lstm.hidden_size
    with torch.no_grad():
        for name, weight in lstm.named_parameters():
            if name.startswith("weight"):
                for gate in weight.split(size):
                    (nn.init.xavier_uniform_ if "_ih_" in name else nn.init.orthogonal_)(gate)
            else:
                weight.zero_()
                if "_ih_" in name:
                    weight[size : 2 * size] = forget_bias
