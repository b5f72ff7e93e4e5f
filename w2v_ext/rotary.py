"""Rotary position embedding (Su et al. 2021), in both conventions, and the way from one to the other."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Convention = Literal["interleaved", "half"]
CONVENTIONS: tuple[str, ...] = Convention.__args__


class RotaryEmbedding(nn.Module):
    r"""Turns pairs of numbers of queries and keys by angles that grow with the position.

    Pair i of position t is turned by t * base^(-2 i / R), so that the dot product of a query and a key depends on their
    distance. As complex numbers: ``(a + b j) * exp(j * angle)``. Which numbers are a pair is a convention:

    - ``"interleaved"``: 2 i and 2 i + 1, as in the paper and GPT-J;
    - ``"half"``: i and i + R / 2, as in GPT-NeoX and LLaMA.

    They differ by an order of the columns (:func:`rotary_permutation`), and weights made for one must be reordered for
    the other (:func:`reorder_projection`).

    Args:
        dim: D, of a head.
        convention: ``"half"`` or ``"interleaved"``.
        base: of the angles.
        rotary_dim: R, how many of the columns are turned, the first ones; the others stay. None: all.
        max_positions: for how many the angles are kept from the start; more are computed when they are needed.

    Angles, cosines and sines are computed in float64 and kept in float32, or kept in float64 where float64 is turned.
    They are no part of ``state_dict``. x keeps its dtype; the turning itself is done in float32 at least.

    Raises:
        ValueError: sizes that are odd or out of range, an unknown convention.
    """

    def __init__(
        self,
        dim: int,
        *,
        convention: Convention = "half",
        base: float = 10_000.0,
        rotary_dim: int | None = None,
        max_positions: int = 2048,
    ) -> None:
        super().__init__()
        rotary_dim = dim if rotary_dim is None else rotary_dim
        if not 2 <= rotary_dim <= dim or rotary_dim % 2:
            raise ValueError(f"rotary_dim: expected an even number from 2 to dim = {dim}, got {rotary_dim}")
        if convention not in CONVENTIONS:
            raise ValueError(f"convention: expected one of {', '.join(CONVENTIONS)}, got {convention!r}")
        if not base > 0:
            raise ValueError(f"base: expected a number > 0, got {base}")
        if max_positions < 1:
            raise ValueError(f"max_positions: expected an integer >= 1, got {max_positions}")
        self.dim, self.rotary_dim, self.base, self.convention = dim, rotary_dim, float(base), convention
        self._kept = max_positions
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def forward(self, x: Tensor, *, offset: int = 0, positions: Tensor | None = None) -> Tensor:
        """Turn queries or keys.

        Args:
            x: (..., T, D) of any float dtype.
            offset: position of the first of the T, as when keys are cached.
            positions: integers that broadcast to (..., T), in place of ``offset``.

        Returns:
            As x.

        Raises:
            ValueError: another D, or a position below 0.
        """
        if x.shape[-1] != self.dim:
            raise ValueError(f"x: expected shape (..., T, D) with D = {self.dim}, got {tuple(x.shape)}")
        if offset < 0 or (positions is not None and positions.numel() and int(positions.min()) < 0):
            raise ValueError("positions: expected numbers >= 0, got one below")
        compute = torch.float64 if x.dtype == torch.float64 else torch.float32
        if positions is None:
            cos, sin = (t[offset : offset + x.shape[-2]] for t in self._table(offset + x.shape[-2], x.device, compute))
        else:
            most = int(positions.max()) + 1 if positions.numel() else 1
            cos, sin = (t[positions] for t in self._table(most, x.device, compute))
        turned, rest = x[..., : self.rotary_dim].to(compute), x[..., self.rotary_dim :]
        if self.convention == "interleaved":
            a, b = turned[..., 0::2], turned[..., 1::2]
            turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
        else:
            a, b = turned.chunk(2, dim=-1)
            turned = torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
        return torch.cat((turned.to(x.dtype), rest), dim=-1)

    def _table(self, count: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines (N, R / 2) of positions 0 to N >= count."""
        found = self._tables.get((device, dtype))
        if found is not None and len(found[0]) >= count:
            return found
        while self._kept < count:
            self._kept *= 2
        with torch.inference_mode(False):  # tables made in it could not be used in training later
            frequencies = self.base ** (-torch.arange(0, self.rotary_dim, 2, dtype=torch.float64) / self.rotary_dim)
            angles = torch.arange(self._kept, dtype=torch.float64)[:, None] * frequencies  # (N, R / 2)
            found = angles.cos().to(device, dtype), angles.sin().to(device, dtype)
        self._tables[device, dtype] = found
        return found

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        part = "" if self.rotary_dim == self.dim else f", rotary_dim={self.rotary_dim}"
        return f"{self.dim}, convention={self.convention!r}, base={self.base:g}{part}"


def rotary_permutation(dim: int, to: Convention, *, rotary_dim: int | None = None) -> Tensor:
    """The order (D,) of columns that brings heads of the other convention to this one.

    With p = rotary_permutation(D, "half"): ``half(x[..., p])`` is ``interleaved(x)[..., p]``. The order of the other
    direction is its inverse; the columns from ``rotary_dim`` on stay.
    """
    rotary_dim = dim if rotary_dim is None else rotary_dim
    if to not in CONVENTIONS:
        raise ValueError(f"to: expected one of {', '.join(CONVENTIONS)}, got {to!r}")
    if not 2 <= rotary_dim <= dim or rotary_dim % 2:
        raise ValueError(f"rotary_dim: expected an even number from 2 to dim = {dim}, got {rotary_dim}")
    turned = torch.arange(rotary_dim)
    pairs = turned.view(-1, 2).T if to == "half" else turned.view(2, -1).T
    return torch.cat((pairs.reshape(-1), torch.arange(rotary_dim, dim)))


def reorder_projection(weight: Tensor, dim: int, to: Convention, *, rotary_dim: int | None = None) -> Tensor:
    """Reorder a projection to queries or keys, made for the other convention, for this one.

    Args:
        weight: (heads * D, ...) of ``nn.Linear``, or its bias (heads * D,).
        dim: D, of a head.
        to: the convention to come.
        rotary_dim: as in :class:`RotaryEmbedding`.

    Returns:
        A new tensor: attention scores are the same when queries and keys are both reordered.
    """
    if weight.dim() < 1 or weight.shape[0] % dim:
        raise ValueError(f"weight: expected shape (heads * {dim}, ...), got {tuple(weight.shape)}")
    order = rotary_permutation(dim, to, rotary_dim=rotary_dim).to(weight.device)
    return weight.view(-1, dim, *weight.shape[1:])[:, order].reshape(weight.shape)
