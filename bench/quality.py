"""How good vectors are: Spearman on WS353 and SimLex-999, accuracy on analogies (restrict_vocab 30,000).

The project's own evaluators where they are there; otherwise the same sums in a few lines of PyTorch. Either gives
gensim's figures. Needs no package besides PyTorch and NumPy, so that it runs on a GPU machine without a network.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import w2v_ext

FILES = {"ws353": "EN-WS-353-ALL.txt", "simlex": "EN-SIMLEX-999.txt", "analogies": "questions-words.txt"}
RESTRICT = 30_000


def judge(vectors: w2v_ext.KeyedVectors, folder: Path, device: str = "cpu") -> dict[str, float]:
    """The three figures; empty where the folder lacks the files."""
    if not all((folder / name).exists() for name in FILES.values()):
        return {}
    ws353, simlex, questions = (folder / name for name in FILES.values())
    try:
        from w2v_ext.judgments import evaluate_word_analogies, evaluate_word_pairs
    except ImportError:
        return {
            "ws353": _spearman_of(vectors, ws353),
            "simlex": _spearman_of(vectors, simlex),
            "analogies": _analogies(vectors, questions, device),
        }
    return {
        "ws353": float(evaluate_word_pairs(vectors, ws353).spearman[0]),
        "simlex": float(evaluate_word_pairs(vectors, simlex).spearman[0]),
        "analogies": float(
            evaluate_word_analogies(vectors, questions, restrict_vocab=RESTRICT, device=device).accuracy
        ),
    }


def _rows(vectors: w2v_ext.KeyedVectors, most: int) -> tuple[dict[str, int], torch.Tensor]:
    words = vectors.index_to_key[:most]
    rows: dict[str, int] = {}
    for row, word in enumerate(words):  # upper case, as gensim does; the more frequent of two words wins
        rows.setdefault(word.upper(), row)
    matrix = torch.as_tensor(np.asarray(vectors.vectors[: len(words)], np.float32))
    return rows, matrix / matrix.norm(dim=1, keepdim=True).clamp(min=1e-30)


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]  # equal values share the mean of their ranks


def _spearman_of(vectors: w2v_ext.KeyedVectors, path: Path) -> float:
    rows, unit = _rows(vectors, 300_000)
    ours, theirs = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = line.upper().split("\t")
        if len(fields) != 3 or line.startswith("#") or fields[0] not in rows or fields[1] not in rows:
            continue
        ours.append(float(unit[rows[fields[0]]] @ unit[rows[fields[1]]]))
        theirs.append(float(fields[2]))
    return float(np.corrcoef(_ranks(np.array(ours)), _ranks(np.array(theirs)))[0, 1])


def _analogies(vectors: w2v_ext.KeyedVectors, path: Path, device: str) -> float:
    rows, unit = _rows(vectors, RESTRICT)
    lines = [line.upper().split() for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith(":")]
    known = [[rows[word] for word in line] for line in lines if len(line) == 4 and all(word in rows for word in line)]
    unit, questions = unit.to(device), torch.tensor(known, device=device)
    right = 0
    for a, b, c, wanted in (part.T for part in questions.split(1024)):
        scores = (unit[b] - unit[a] + unit[c]) @ unit.T
        for given in (a, b, c):
            scores[torch.arange(len(given)), given] = -torch.inf
        right += int((scores.argmax(1) == wanted).sum())
    return right / max(len(known), 1)
