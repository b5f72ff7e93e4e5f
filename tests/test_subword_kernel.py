"""fastText's models: the groups of rows, and the kernel against the NumPy reference, draw for draw."""

import numpy as np
import pytest
import torch
from instruction_sets import KERNELS, in_process

import w2v_ext
from w2v_ext import family_ops, subword_reference
from w2v_ext.subwords import SubwordGroups, SubwordSettings
from w2v_ext.tables import keep_thresholds, padded_weight

LAYOUT = ("first", "entries", "word_rows", "group_rows")


def make_words(count):
    """Words of syllables, so that many share n-grams, and some have one twice."""
    rng = np.random.default_rng(1)
    syllables = ["ba", "na", "to", "kri", "ü", "st"]
    words = {"banana"}
    while len(words) < count:
        words.add("".join(rng.choice(syllables, rng.integers(1, 5))))
    return sorted(words)


def make_case(vocab=40, dim=16, sentences=12, length=25, seed=0, buckets=5000):
    rng = np.random.default_rng(seed)
    groups = SubwordGroups.of(make_words(vocab), SubwordSettings(2, 4, buckets))
    probability = 1.0 / np.arange(1, vocab + 1)
    probability /= probability.sum()
    ids = []
    for n in rng.integers(1, length, sentences):
        ids += [*rng.choice(vocab, n, p=probability), -1]
    weights = [padded_weight(n, dim) for n in (vocab, len(groups.group_rows) - vocab, vocab)]
    for weight in weights:
        weight.copy_(torch.from_numpy(rng.normal(0, 0.4, weight.shape)))
    keep = keep_thresholds(np.clip(rng.random(vocab) * 2, 0.2, 1))
    return weights, groups, torch.tensor(ids, dtype=torch.int32), w2v_ext.alias_table(torch.tensor(probability)), keep


def train(weights, groups, ids, alias, keep, *, cuts=(), **options):
    settings = {"window": 5, "negative": 5, "seed": 7, "epoch": 0, "epochs": 2, "lr": 0.05, "threads": 1}
    settings |= {"cbow": False, "stretch": 16, **options}
    layout = {name: torch.from_numpy(getattr(groups, name)) for name in LAYOUT}
    total = np.zeros(3)
    edges = [0, *cuts, len(ids)]
    for begin, end in zip(edges, edges[1:], strict=False):
        total += family_ops.train_subwords_(
            *weights, **layout, ids=ids, alias=alias, keep=keep, begin=begin, end=end, **settings
        )
    return total


def worst_difference(dim=16, window=5, negative=5, cbow=False, stretch=16, epoch=1, **case):
    """Largest difference from the reference, and largest change of a weight."""
    weights, groups, ids, alias, keep = make_case(dim=dim, **case)
    vocab = len(weights[0])
    sums, out = (w.double().numpy().copy() for w in (torch.cat(weights[:2]), weights[2]))
    before = sums.copy()
    stats = train(
        weights, groups, ids, alias, keep, window=window, negative=negative, cbow=cbow, stretch=stretch, epoch=epoch
    )
    wanted = subword_reference.train_subwords_(
        sums, out, groups, ids.numpy(), alias.numpy().view(np.uint32), keep.numpy().view(np.uint32), cbow=cbow,
        stretch=stretch, window=window, negative=negative, seed=7, epoch=epoch, epochs=2, lr=0.05,
    )  # fmt: skip
    assert stats[1] == wanted[1] > 0
    assert stats[2] == wanted[2]
    assert stats[0] == pytest.approx(wanted[0], rel=1e-4)
    pairs = ((weights[0], sums[:vocab]), (weights[1], sums[vocab:]), (weights[2], out))
    return max(np.abs(w.numpy() - e).max() for w, e in pairs), np.abs(sums - before).max()


@pytest.mark.parametrize("cbow", [False, True], ids=["skipgram", "cbow"])
@pytest.mark.parametrize("dim", [1, 7, 16, 100, 129, 300])
@pytest.mark.parametrize(("window", "negative"), [(1, 1), (5, 5), (12, 6)])
def test_kernel_matches_the_reference(cbow, dim, window, negative):
    difference, moved = worst_difference(dim, window, negative, cbow)
    assert difference < 3e-5  # float32 rounding of numbers around 1, and of sums of up to 10 rows
    assert moved > 0.1


@pytest.mark.parametrize("cbow", [False, True], ids=["skipgram", "cbow"])
@pytest.mark.parametrize("negative", [7, 8, 14, 15, 30])
def test_every_group_of_outputs(cbow, negative):
    assert worst_difference(20, 3, negative, cbow)[0] < 3e-5


@pytest.mark.parametrize("stretch", [1, 7, 50, 10_000])
def test_stretches_may_have_any_length(stretch):
    assert worst_difference(stretch=stretch)[0] < 3e-5


def test_more_words_than_one_block_of_memory():
    assert worst_difference(vocab=700, sentences=40, length=60, stretch=10_000)[0] < 3e-5


@pytest.mark.parametrize("kernels", KERNELS)
def test_every_instruction_set_matches_the_reference(kernels):
    code = (
        "import test_subword_kernel as t\n"
        "cases = [(d, w, k, c) for d, w, k in [(100, 5, 5), (7, 3, 8)] for c in (False, True)]\n"
        "print(float(max(t.worst_difference(*case)[0] for case in cases)))"
    )
    assert in_process(kernels, code) < 3e-5


@pytest.mark.parametrize("cbow", [False, True], ids=["skipgram", "cbow"])
def test_one_thread_is_bit_identical_however_the_corpus_is_cut(cbow):
    results = []
    for cuts in ((), (1,), (17, 18, 90), tuple(range(5, 100, 5))):
        case = make_case()
        train(*case, cuts=cuts, cbow=cbow)
        results.append(case[0])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_threads_train_every_sentence_once():
    outcomes = []
    for threads in (1, 3):
        case = make_case(vocab=600, sentences=2000)
        outcomes.append(train(*case, threads=threads, stretch=512, lr=0.01))
    assert outcomes[0][1] == outcomes[1][1]
    assert outcomes[0][2] == outcomes[1][2]
    assert outcomes[0][0] == pytest.approx(outcomes[1][0], rel=0.05)


def test_compose_gives_the_means():
    weights, groups, *_ = make_case()
    layout = {name: torch.from_numpy(getattr(groups, name)) for name in LAYOUT}
    vectors = family_ops.compose_subwords(*weights[:2], **layout).numpy()
    wanted = subword_reference.word_vectors(torch.cat(weights[:2]).numpy(), groups)
    np.testing.assert_allclose(vectors, wanted, atol=1e-6)


# ---- groups --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buckets", [3, 50, 2_000_000])
def test_groups_hold_what_the_words_hold(buckets):
    words, settings = make_words(80), SubwordSettings(2, 4, buckets)
    groups = SubwordGroups.of(words, settings)
    ids, ends = settings.buckets_of(words)
    of_bucket = dict(zip(groups.buckets.tolist(), groups.bucket_groups.tolist(), strict=True))
    assert groups.buckets.tolist() == sorted(set(ids.tolist()))
    for w, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
        entries = groups.entries[groups.first[w] : groups.first[w + 1]].tolist()
        assert entries[0] == w
        # Row for row: an entry stands for as many rows as its group has.
        rows = sorted([w, *(of_bucket[b] for b in ids[begin:end].tolist())])
        assert rows == sorted(e for e in entries for _ in range(int(groups.group_rows[e])))
        assert groups.word_rows[w] == 1 + end - begin
    assert len(groups.group_rows) == 80 + len(set(groups.bucket_groups[groups.bucket_groups >= 80].tolist()))


def test_ngrams_of_the_same_words_are_one_group():
    groups = SubwordGroups.of(["ab", "cd", "cde"], SubwordSettings(2, 3, 2_000_000))
    # "<ab", "ab>", "<a", "ab", "b>" only in ab; "<c", "cd", "<cd" in both others.
    assert groups.group_rows.tolist() == [1 + 5, 1 + 2, 1 + 4, 3]
    assert groups.entries.tolist() == [0, 1, 3, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stretch": 0}, "stretch: expected an integer >= 1, got 0"),
        ({"window": 0}, "window: expected an integer from 1"),
        ({"threads": 0}, "threads: expected an integer from 1"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        train(*make_case(), **options)


def test_bad_layouts_are_refused():
    weights, groups, *rest = make_case()
    bad = SubwordGroups(**{**vars(groups), "entries": groups.entries + 10_000})
    with pytest.raises(ValueError, match="entries: expected rows from 0 to"):
        train(weights, bad, *rest)
    bad = SubwordGroups(**{**vars(groups), "first": groups.first[:-1]})
    with pytest.raises(ValueError, match="first: expected a contiguous int64 tensor of shape"):
        train(weights, bad, *rest)


def test_word_out_of_range_is_named():
    weights, groups, ids, alias, keep = make_case()
    ids[5] = 40
    with pytest.raises(IndexError, match="ids: word 40 at position 5 is out of range for in_weight with 40 rows"):
        train(weights, groups, ids, alias, keep)
