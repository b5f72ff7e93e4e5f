"""Every CUDA kernel on small cases, for compute-sanitizer: all widths of rows, both ways to sum, groups of outputs.

    compute-sanitizer --tool memcheck python bench/sanitize_case.py

With PYTORCH_NO_CUDA_MEMORY_CACHING=1 each tensor is an allocation of its own, so that reading past its end is found.
"""

import numpy as np
import torch

import w2v_ext
from w2v_ext import family_ops, ops, row_steps
from w2v_ext.classify import ops as classify_ops
from w2v_ext.classify.lines import Encoded
from w2v_ext.classify.tree import LabelTree, label_tree
from w2v_ext.huffman import huffman_tree
from w2v_ext.methods.cuda_epoch import device_weight
from w2v_ext.subwords import SubwordGroups, SubwordSettings

assert torch.cuda.is_available(), "sanitize_case: needs a CUDA device"
generator = torch.Generator().manual_seed(0)


def loss_case(dtype: torch.dtype, dim: int, negatives: int, sort: bool, rows: int = 9, batch: int = 70) -> None:
    """Loss, gradients and step; of 70 examples on 9 rows, sorted, runs go on over several groups."""
    draw = lambda *shape: torch.randint(rows, shape, generator=generator).cuda()  # noqa: E731
    weights = [torch.randn(rows, dim, generator=generator).to("cuda", dtype).requires_grad_() for _ in range(2)]
    indices = draw(batch), draw(batch, 1), draw(batch, negatives)
    torch.use_deterministic_algorithms(sort)
    w2v_ext.negative_sampling_loss(*weights, *indices).backward()
    assert all(w.grad.isfinite().all() for w in weights)
    w2v_ext.sgns_step_(*(w.detach() for w in weights), *indices, 0.1)
    torch.use_deterministic_algorithms(False)


def some_sentences() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids of 30 short sentences of 40 words, noise, and what subsampling keeps."""
    rng = np.random.default_rng(0)
    ids = np.concatenate([np.append(rng.integers(0, 40, n), -1) for n in rng.integers(1, 60, 30)]).astype(np.int32)
    alias = w2v_ext.alias_table(torch.ones(40, dtype=torch.float64)).cuda()
    return torch.from_numpy(ids).cuda(), alias, torch.full((40,), 2**30, dtype=torch.int32).cuda()


def some_weights(dim: int, *rows: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Tables of so many rows, then the sums and the place of the first bad word."""
    tables = [device_weight(n, dim, dtype, torch.device("cuda")) for n in rows]
    for table in tables:
        table.copy_(0.1 * torch.randn(table.shape, generator=generator))
    return [*tables, torch.zeros(3, dtype=torch.float64, device="cuda"), torch.full((1,), 2**63 - 1, device="cuda")]


def epoch_settings(ids: torch.Tensor, window: int) -> dict:
    """All of the ids, by 7 warps."""
    return {
        "first": 0, "num_ids": len(ids), "begin": 0, "end": len(ids), "window": window, "seed": 1, "epoch": 0,
        "epochs": 1, "lr": 0.05, "sentences_in_flight": 7,
    }  # fmt: skip


def assert_trained(sums: torch.Tensor, bad: torch.Tensor) -> None:
    assert sums.isfinite().all()
    assert sums[1] > 0
    assert bad.item() == 2**63 - 1


def epoch_case(dtype: torch.dtype, dim: int, window: int, negative: int, hot_words: int) -> None:
    """Skip-gram with negative sampling."""
    ids, alias, keep = some_sentences()
    tables = some_weights(dim, 40, 40, dtype=dtype)
    ops.train_sgns_cuda_(
        *tables, ids, alias, keep, negative=negative, hot_words=hot_words, **epoch_settings(ids, window)
    )
    assert_trained(*tables[-2:])


def family_case(dim: int, window: int, negative: int) -> None:
    """CBOW, and trees of both kinds."""
    ids, alias, keep = some_sentences()
    kind = {"mean": True, "divide": True, "hot_words": 10, **epoch_settings(ids, window)}
    tables = some_weights(dim, 40, 40)
    family_ops.train_cbow_cuda_(*tables, ids, alias, keep, negative=negative, **kind)
    assert_trained(*tables[-2:])
    tree = huffman_tree(np.arange(40, 0, -1) ** 3)
    paths, longest = (
        [torch.from_numpy(part).cuda() for part in (tree.start, tree.steps)],
        int(np.diff(tree.start).max()),
    )
    for cbow in (False, True):
        tables = some_weights(dim, 40, 40)
        family_ops.train_hs_cuda_(*tables, ids, *paths, keep, longest=longest, cbow=cbow, **kind)
        assert_trained(*tables[-2:])


def subword_case(dim: int, window: int, negative: int) -> None:
    """fastText's models."""
    ids, alias, keep = some_sentences()
    groups = SubwordGroups.of([f"{'banana'[: i % 7]}{i}" for i in range(40)], SubwordSettings(2, 4, 300))
    names = ("first", "entries", "word_rows", "group_rows")
    layout = {name: torch.from_numpy(getattr(groups, name)).cuda() for name in names}
    layout["first_entry"] = layout.pop("first")
    for cbow in (False, True):
        tables = some_weights(dim, 40, len(groups.group_rows) - 40, 40)
        family_ops.train_subwords_cuda_(
            *tables, **layout, ids=ids, alias=alias, keep=keep, cbow=cbow, negative=negative,
            **epoch_settings(ids, window),
        )  # fmt: skip
        assert_trained(*tables[-2:])


def line_case(dim: int, loss: str, num_labels: int) -> None:
    """The classifier: 30 lines by 7 warps."""
    rng = np.random.default_rng(0)

    def parts(lengths: np.ndarray, low: int, high: int) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = rng.integers(low, high, lengths.sum()).astype(np.int32)
        return torch.from_numpy(numbers).cuda(), torch.from_numpy(lengths.cumsum()).cuda()

    lines = Encoded(*parts(rng.integers(0, 50, 30), 0, 20), *parts(rng.integers(0, 40, 30), -1, 90),
                    *parts(rng.integers(0, 4, 20), -1, 90))  # fmt: skip
    labels = parts(rng.integers(1, 3, 30), 0, num_labels)
    empty = LabelTree(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64))
    tree = label_tree(np.arange(num_labels, 0, -1)) if loss == "hs" else empty
    paths = torch.from_numpy(tree.path).cuda(), torch.from_numpy(tree.path_ends).cuda()
    *tables, _, bad = some_weights(dim, 90, num_labels - (loss == "hs"))
    sums = torch.zeros(2, dtype=torch.float64, device="cuda")
    classify_ops.train_classifier_cuda_(
        *tables, sums, bad, lines, *labels, *paths, torch.arange(30, dtype=torch.int32, device="cuda"),
        longest=int(np.diff(tree.path_ends, prepend=0).max(initial=0)), loss=loss, lr=0.1, seed=1, epoch=0, epochs=1,
        begin=0, end=30, lines_in_flight=7,
    )  # fmt: skip
    assert_trained(sums, bad)


def glove_case(dim: int) -> None:
    """100 cells in two blocks, by 7 warps."""
    rng = np.random.default_rng(0)
    cells = np.zeros((100, 4), np.int32)
    cells[:, :2] = rng.integers(0, 40, (100, 2))
    cells[:, 2:] = rng.random((100, 2), np.float32).view(np.int32)
    table = torch.zeros(40, 4, -(-dim // 16) * 16, device="cuda")
    table[:, ::2, :dim] = 0.1 * torch.randn(40, 2, dim, generator=generator).cuda()
    sums, bad = torch.zeros(2, dtype=torch.float64, device="cuda"), torch.full((1,), 2**63 - 1, device="cuda")
    firsts, starts = (torch.tensor(numbers, device="cuda") for numbers in ([0, 60], [0, 60, 100]))
    ops.train_glove_cuda_(
        table, torch.zeros(40, 4, device="cuda"), sums, bad, torch.from_numpy(cells).cuda(), firsts, starts, lr=0.05,
        begin=0, end=100, cells_in_flight=7,
    )  # fmt: skip
    assert_trained(sums, bad)


def optimizer_case(dtype: torch.dtype, dim: int) -> None:
    """A step of each rule on 20 of 50 rows, with all settings."""
    weight, values = (torch.randn(n, dim, generator=generator).to("cuda", dtype) for n in (50, 20))
    rows = torch.randperm(50, generator=generator)[:20].cuda()
    state = lambda *shape: torch.zeros(shape, dtype=torch.float32, device="cuda")  # noqa: E731
    common = {"lr": 0.05, "weight_decay": 0.1, "clip_row_norm": 1.0, "max_norm": 2.0}
    row_steps.sparse_sgd_(weight, rows, values, momentum=0.9, momentum_buffer=state(50, dim), **common)
    for sums in (state(50, dim), state(50)):
        row_steps.sparse_adagrad_(weight, rows, values, sum=sums, **common)
    row_steps.sparse_adam_(weight, rows, values, exp_avg=state(50, dim), exp_avg_sq=state(50, dim), step=1, **common)
    assert row_steps.square_norm(weight, rows, values, 1.0).isfinite()


def softmax_case(dtype: torch.dtype, vocab: int) -> None:
    """Losses and slopes over a vocabulary of a part of a row, and of several."""
    total = torch.float64 if dtype == torch.float64 else torch.float32
    scores = torch.randn(3, vocab, generator=generator).to("cuda", dtype)
    bias, losses = torch.randn(vocab, generator=generator).to("cuda", total), torch.zeros(3, device="cuda", dtype=total)
    ops._ops.softmax_slopes_cuda_(scores, bias, torch.tensor([vocab - 1, 0, vocab // 2]).cuda(), 0.1, losses, True)
    assert losses.isfinite().all() and scores.float().sum(1).abs().max() < 0.1


for dtype in (torch.float32, torch.float64, torch.bfloat16):
    for vocab in (5, 7001):
        softmax_case(dtype, vocab)
    for dim, negatives in ((7, 5), (128, 10), (130, 18), (132, 2)):
        for sort in (False, True):
            loss_case(dtype, dim, negatives, sort)
for dim, rows, batch in ((128, 300, 70), (128, 5000, 70), (132, 5000, 70), (16, 9000, 3000)):
    for dtype in (torch.float32, torch.bfloat16):
        loss_case(dtype, dim, 5, False, rows, batch)
for dtype in (torch.float32, torch.bfloat16):
    for dim, window, negative in ((20, 5, 5), (130, 2, 3), (300, 5, 5), (18, 20, 9), (400, 3, 5)):
        epoch_case(dtype, dim, window, negative, 0)
        epoch_case(dtype, dim, window, negative, 10)
for dim, window, negative in ((20, 5, 5), (130, 2, 13)):
    family_case(dim, window, negative)
    subword_case(dim, window, negative)
for dim, loss, num_labels in ((20, "softmax", 2), (130, "hs", 9), (300, "ova", 40), (4, "softmax", 2100)):
    line_case(dim, loss, num_labels)
for dim in (7, 100):
    glove_case(dim)
    for dtype in (torch.float32, torch.bfloat16):
        optimizer_case(dtype, dim)
torch.cuda.synchronize()
print("sanitize_case: done")
