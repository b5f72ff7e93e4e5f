"""The arithmetic of what ranks exchange, in one process."""

import pytest
import torch

from w2v_ext import distributed
from w2v_ext.distributed import piece_rows, tier_bounds
from w2v_ext.exchange import GatheredRows, SummedRows, give_rows_, take_rows_


def pieces_after_an_exchange(deltas, gathered, overshoot):
    """Where two rows of each rank are after an exchange of their deltas (R, 2, D), all from zero."""
    ranks, shape = len(deltas), deltas.shape[1:]
    if gathered:
        moves = torch.empty(ranks, *shape, dtype=torch.bfloat16)
        pieces = [GatheredRows(d.clone(), torch.zeros(shape), moves, rank) for rank, d in enumerate(deltas)]
    else:
        empty = [torch.empty(shape), torch.empty(shape), torch.empty(shape[0])]
        pieces = [SummedRows(d.clone(), torch.zeros(shape), *(x.clone() for x in empty)) for d in deltas]
    for piece in pieces:
        piece.begin()
    if not gathered:  # the ring
        moves, squares = sum(p.move for p in pieces), sum(p.squares for p in pieces)
        for piece in pieces:
            piece.move, piece.squares = moves.clone(), squares
    for piece in pieces:
        piece.end(overshoot)
    return [piece.rows for piece in pieces]


@pytest.mark.parametrize("gathered", [True, False])
def test_what_all_ranks_move_the_same_way_is_bounded(gathered):
    apart, together = torch.eye(4), torch.tensor([1.0, 2, 0, 0]).expand(4, 4)
    deltas = torch.stack([apart, together], 1)  # (4 ranks, 2 rows, 4)
    for rows in pieces_after_an_exchange(deltas, gathered, 2.0):
        torch.testing.assert_close(rows, torch.tensor([[1.0, 1, 1, 1], [2, 4, 0, 0]]))
    for rows in pieces_after_an_exchange(deltas, gathered, 0):
        torch.testing.assert_close(rows, torch.tensor([[1.0, 1, 1, 1], [4, 8, 0, 0]]))


def test_what_bfloat16_rounds_off_is_kept_for_the_next_exchange():
    deltas = torch.tensor([[[1.001, 0], [0, 0]], [[0.0, 0], [0, 0]]])
    first, second = pieces_after_an_exchange(deltas, True, 0)
    assert second[0, 0] == 1.0
    assert first[0, 0] == pytest.approx(1.001, abs=1e-7)


@pytest.mark.parametrize("shape", [(2, 5, 1), (4, 300, 100), (3, 257, 129), (2, 0, 7), (1, 1, 16)])
@pytest.mark.parametrize("overshoot", [0, 0.5])
def test_fused_exchange_equals_pytorch(shape, overshoot, monkeypatch):
    ranks, count, dim = shape
    rng = torch.Generator().manual_seed(0)
    rows, base = torch.randn(count, dim + 3, generator=rng)[:, :dim], torch.randn(count, dim, generator=rng)
    flat = torch.randn(ranks, 2 + count * dim, generator=rng).bfloat16()
    sides = []
    for fused in (True, False):
        monkeypatch.setattr(GatheredRows, "_fused", fused)
        moves = flat.clone()[:, 1 : 1 + count * dim].unflatten(1, (count, dim))
        padded = torch.cat([rows, torch.full((count, 2), 7.0)], 1)
        side = GatheredRows(padded[:, :dim], base.clone(), moves, ranks - 1)
        side.begin()
        given = side.moves.clone()
        side.end(overshoot)
        assert padded[:, dim:].eq(7).all()
        sides.append((given, side.rows, side.base))
    (given, *ours), (expected, *theirs) = sides
    assert torch.equal(given, expected)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": torch.zeros(4, 3, dtype=torch.float64)}, "rows: expected a float32 tensor"),
        ({"rows": torch.zeros(3, 4).T}, "rows: expected a float32 tensor .* contiguous rows"),
        ({"rows": torch.zeros(1, 3).expand(4, 3)}, "rows: expected rows that do not overlap"),
        ({"base": torch.zeros(3, 3)}, r"base: expected .* shape of rows, \(4, 3\), got shape \(3, 3\)"),
        ({"moves": torch.zeros(2, 4, 3)}, "moves: expected a bfloat16 tensor"),
        ({"moves": torch.zeros(2, 3, 4, dtype=torch.bfloat16).mT}, "moves: expected contiguous numbers of each rank"),
        ({"own": 2}, "own: expected a rank from 0 to 1, got 2"),
        ({"overshoot": -1.0}, "overshoot: expected a finite number >= 0, got -1"),
    ],
)
def test_exchange_refuses(change, message):
    given = {"rows": torch.zeros(4, 3), "base": torch.zeros(4, 3), "own": 0, "overshoot": 0.0}
    given |= {"moves": torch.zeros(2, 4, 3, dtype=torch.bfloat16), **change}
    with pytest.raises(ValueError, match=message):
        take_rows_(given["rows"], given["base"], given["moves"], given["own"], given["overshoot"])
    if "overshoot" not in change:
        with pytest.raises(ValueError, match=message):
            give_rows_(given["moves"], given["rows"], given["base"], given["own"])


@pytest.mark.parametrize("rows", [1, 255, 256, 257, 2048, 49_192, 5_000_000])
def test_tiers_cover_every_row_once(rows):
    bounds = tier_bounds(rows)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == rows
    assert all(before[1] == after[0] for before, after in zip(bounds, bounds[1:], strict=False))
    assert [period for *_, period in bounds] == sorted(period for *_, period in bounds)


def test_what_is_between_on_a_gpu_is_bounded():
    for dim in (1, 100, 300, 1 << 25):
        assert 1 <= piece_rows("cuda", True, dim) * dim <= max(distributed.CUDA_PIECE_FLOATS, dim)
    assert piece_rows("cpu", True, 300) > 1 << 32  # fused
    assert piece_rows("cpu", False, 300) == distributed.PIECE_ROWS
