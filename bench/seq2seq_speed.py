"""Speed and memory of the sequence-to-sequence parts beside plain PyTorch with the same layers, in the same run.

    python bench/seq2seq_speed.py loss --out bench/results/seq2seq-loss-cpu.json
    python bench/seq2seq_speed.py decoder --out bench/results/seq2seq-decoder-cpu.json

`loss`: chunked cross-entropy (label smoothing 0.1) beside ``F.cross_entropy(F.linear(...))``, forward and backward,
2,048 rows of 512 numbers, for vocabularies of 10,000, 50,000 and 200,000. Each side and vocabulary runs in a process of
its own; memory is the peak of the resident set (on CUDA: of the allocator) above what it was before the first step.

`decoder`: training steps (forward, backward, clipping, Adam) of an attention model, 6,000 words, 512 units, batches of
128 pairs of 8 to 16 tokens, beside the same layers in the usual loop: packed encoder, one LSTM call, one attention and
one output layer a step, dropout of PyTorch, plain cross-entropy. Both sides take turns, in the same process.

`--vocabs` and `--precisions` choose some of the rows; what is measured joins what `--out` holds. Results are checked to
be equal before anything is timed; `others` is the share of the processors that other programs took meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import machine, spread
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from w2v_ext.seq2seq import LSTMDecoder, LSTMEncoder, Seq2SeqModel, chunked_cross_entropy

ROWS, FEATURES, VOCABS = 2048, 512, (10_000, 50_000, 200_000)


def timed(step: Callable[[], object], device: str, rounds: int) -> list[float]:
    """Seconds of each round."""
    seconds = []
    for _ in range(rounds):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds


class Others:
    """The share of the machine's processor time that others took while this was open; None where it is not told."""

    def __enter__(self) -> Others:
        self._before = self._busy(), time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        after = self._busy(), time.process_time(), time.perf_counter()
        busy, own, now = (b - a for a, b in zip(self._before, after, strict=True))
        self.share = max(0.0, busy - own) / (now * (os.cpu_count() or 1)) if busy else None

    @staticmethod
    def _busy() -> float:
        if not Path("/proc/stat").exists():
            return 0.0
        ticks = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # all but idle and waiting for disks


# ---- the loss ------------------------------------------------------------------------------------------------------


def resident() -> tuple[int, int]:
    """Bytes resident now and at the peak."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))


def loss_worker(side: str, vocab: int, precision: str, device: str, rounds: int) -> dict:
    """Time and memory of one side."""
    torch.manual_seed(0)
    features = torch.randn(ROWS, FEATURES, device=device, requires_grad=True)
    weight = (torch.randn(vocab, FEATURES, device=device) / FEATURES**0.5).requires_grad_()
    bias = torch.zeros(vocab, device=device, requires_grad=True)
    target = torch.randint(1, vocab, (ROWS,), device=device)
    leaves = [features, weight, bias]

    def step() -> torch.Tensor:
        for leaf in leaves:
            leaf.grad = None
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            if side == "chunked":
                loss = chunked_cross_entropy(*leaves, target, label_smoothing=0.1)
            else:
                loss = F.cross_entropy(F.linear(*leaves).float(), target, ignore_index=0, label_smoothing=0.1)
        loss.backward()
        return loss

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = resident()[0]
    loss = step().item()
    memory = (torch.cuda.max_memory_allocated() if device == "cuda" else resident()[1]) - before
    step()
    with Others() as others:
        seconds = timed(step, device, rounds)
    norms = [leaf.grad.double().norm().item() for leaf in leaves]
    return {"loss": loss, "gradient_norms": norms, "bytes": memory, "seconds": spread(seconds), "others": others.share}


def bench_loss(device: str, rounds: int, vocabs: list[int], precisions: list[str]) -> dict:
    """Both sides for every vocabulary and precision."""
    rows = []
    for precision in precisions:
        for vocab in vocabs:
            sides = {}
            for side in ("plain", "chunked"):
                arguments = ["--worker", json.dumps([side, vocab, precision, device, rounds])]
                done = subprocess.run(
                    [sys.executable, __file__, "loss", *arguments], stdout=subprocess.PIPE, check=True
                )
                sides[side] = json.loads(done.stdout)
            plain, chunked = sides["plain"], sides["chunked"]
            close = 1e-4 if precision == "float32" else 1e-2
            pairs = zip(
                [plain["loss"], *plain["gradient_norms"]], [chunked["loss"], *chunked["gradient_norms"]], strict=True
            )
            for a, b in pairs:
                if abs(a - b) > close * abs(a):
                    raise SystemExit(f"the sides differ: {a} and {b} (V {vocab}, {precision})")
            row = {
                "precision": precision,
                "vocab": vocab,
                "memory_ratio": chunked["bytes"] / plain["bytes"],
                "speedup": plain["seconds"]["median"] / chunked["seconds"]["median"],
                **sides,
            }
            rows.append(row)
            print(
                f"{precision:<9} V {vocab:>7,}: plain {plain['bytes'] / 2**20:7.0f} MiB "
                f"{plain['seconds']['median'] * 1e3:7.1f} ms, chunked {chunked['bytes'] / 2**20:7.0f} MiB "
                f"{chunked['seconds']['median'] * 1e3:7.1f} ms: {row['memory_ratio']:.2f} of the memory, "
                f"{row['speedup']:.2f} times the speed "
                f"(others took {plain['others'] or 0:.0%}, {chunked['others'] or 0:.0%})",
                flush=True,
            )
    return {"rows": ROWS, "features": FEATURES, "results": rows}


# ---- the decoder ---------------------------------------------------------------------------------------------------


def plain_loss(model: Seq2SeqModel, batch: tuple, dropout: float) -> torch.Tensor:
    """The usual loop over the model's own layers."""
    src, lengths, tgt_in, tgt_out = batch
    encoder, decoder = model.encoder, model.decoder
    drop = lambda x: F.dropout(x, dropout, model.training)  # noqa: E731
    packed = pack_padded_sequence(drop(encoder.embed.embedding(src)), lengths, batch_first=True, enforce_sorted=False)
    outputs, state = encoder.lstm(packed)
    outputs = drop(pad_packed_sequence(outputs, batch_first=True)[0])
    state = model.bridge(state)
    mask = torch.arange(src.shape[1], device=src.device) < lengths.to(src.device)[:, None]
    keys = decoder.attention.key(outputs)
    words = drop(decoder.embed.embedding(tgt_in))
    logits = []
    for t in range(tgt_in.shape[1]):
        y, state = decoder.lstm(words[:, t : t + 1], state)
        scores = (y @ keys.transpose(1, 2)).masked_fill(~mask[:, None], float("-inf"))
        context = scores.softmax(-1).to(outputs.dtype) @ outputs
        features = drop(decoder.readout(drop(torch.cat([y, context], -1))).tanh())
        logits.append(F.linear(features, decoder.output_weight, decoder.output_bias))
    flat = torch.cat(logits, 1).flatten(0, 1).float()
    return F.cross_entropy(flat, tgt_out.flatten(), ignore_index=0, label_smoothing=0.1)


def one_call_loss(model: Seq2SeqModel, batch: tuple) -> torch.Tensor:
    """What the trainer does."""
    src, lengths, tgt_in, tgt_out = batch
    out = model.features(src, lengths, tgt_in)
    return chunked_cross_entropy(
        out.features, model.decoder.output_weight, model.decoder.output_bias, tgt_out, label_smoothing=0.1
    )


def make_model(dropout: float, vocab: int, device: str) -> Seq2SeqModel:
    """The attention model of the Multi30k runs."""
    torch.manual_seed(0)
    drops = {"dropout": dropout, "embed_dropout": dropout}
    encoder = LSTMEncoder(vocab, 256, 256, bidirectional=True, **drops)
    decoder = LSTMDecoder(vocab, 256, 512, attention="luong", memory_size=512, tied=True, **drops)
    return Seq2SeqModel(encoder, decoder, share_embeddings=True, bridge=True).to(device)


def make_batches(count: int, vocab: int, device: str) -> list[tuple]:
    """Batches of 128 pairs."""
    batches = []
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        draw = lambda *size: torch.randint(4, vocab, size, generator=generator)  # noqa: E731
        lengths = torch.randint(8, 17, (128,), generator=generator)
        sizes = torch.randint(8, 17, (128,), generator=generator)
        lengths[0], sizes[0] = 16, 16
        beyond = torch.arange(16) >= lengths[:, None]
        past = torch.arange(16) >= sizes[:, None]
        batch = draw(128, 16).masked_fill(beyond, 0), lengths, draw(128, 16), draw(128, 16).masked_fill(past, 0)
        batches.append(tuple(part if i == 1 else part.to(device) for i, part in enumerate(batch)))
    return batches


def bench_decoder(device: str, rounds: int, precisions: list[str]) -> dict:
    """Both sides in turns."""
    vocab, rows = 6000, []
    batches = make_batches(8, vocab, device)
    exact = make_model(0.0, vocab, device)
    for batch in batches[:2]:
        a, b = plain_loss(exact, batch, 0.0), one_call_loss(exact, batch)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        leaves = list(exact.parameters())
        for x, y in zip(torch.autograd.grad(a, leaves), torch.autograd.grad(b, leaves), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-6)
    tokens = statistics.fmean(int((batch[3] != 0).sum()) for batch in batches)
    for precision in precisions:
        seconds: dict[str, list[float]] = {"plain": [], "one_call": []}
        steps = {}
        for side in seconds:
            model = make_model(0.3, vocab, device).train()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0, fused=True)
            steps[side] = _step(side, model, optimizer, batches, precision, device)
            timed(steps[side], device, len(batches))  # every shape once
        with Others() as others:
            for _ in range(rounds):
                for side, step in steps.items():
                    seconds[side] += [sum(timed(step, device, len(batches))) / len(batches)]
        speedups = [a / b for a, b in zip(seconds["plain"], seconds["one_call"], strict=True)]
        row = {
            "precision": precision,
            "speedup": spread(speedups),
            "others": others.share,
            **{side: spread([tokens / s for s in some]) for side, some in seconds.items()},
        }
        rows.append(row)
        print(
            f"{precision:<9} plain loop {row['plain']['median']:,.0f} tokens/s, one call "
            f"{row['one_call']['median']:,.0f} tokens/s: {row['speedup']['median']:.2f} times "
            f"({row['speedup']['min']:.2f} to {row['speedup']['max']:.2f}; others took {others.share or 0:.0%})",
            flush=True,
        )
    return {"vocab": vocab, "results": rows}


def _step(
    side: str, model: Seq2SeqModel, optimizer: torch.optim.Optimizer, batches: list, precision: str, device: str
) -> Callable[[], None]:
    place = [0]

    def step() -> None:
        batch = batches[place[0] % len(batches)]
        place[0] += 1
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = one_call_loss(model, batch) if side == "one_call" else plain_loss(model, batch, 0.3)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def main() -> None:
    """Run a bench and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["loss", "decoder"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocabs", type=int, nargs="+", default=VOCABS)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(loss_worker(*json.loads(args.worker))))
        return
    if args.what == "loss":
        result = bench_loss(args.device, args.rounds, args.vocabs, args.precisions)
    else:
        result = bench_decoder(args.device, args.rounds, args.precisions)
    if args.out and args.out.exists():
        key = lambda row: (row["precision"], row.get("vocab", 0))  # noqa: E731
        new = {key(row) for row in result["results"]}
        result["results"] += [row for row in json.loads(args.out.read_text())["results"] if key(row) not in new]
        result["results"].sort(key=key)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        here = {**machine(), "threads": torch.get_num_threads()}
        here["gpu"] = torch.cuda.get_device_name() if args.device == "cuda" else None
        args.out.write_text(json.dumps({"machine": here, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
