"""Smaller vectors: 8 bits a number, product quantisation, low rank.

>>> packed = compress(kv.vectors, "int8")            # or "int8-symmetric", "pq", "low-rank"
>>> save_compressed("small.safetensors", kv.index_to_key, packed, kv.counts)
>>> kv = KeyedVectors(*formats.load_vectors("small.safetensors"))      # decoded to float32

``python -m w2v_ext.compress`` does this with files and reports what it costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .files import FormatError
from .formats.collect import ReadOptions
from .formats.table import PathLike, VectorTable, check_table, first_not_finite
from .formats.tensors import finish_table, need, pack_words, read_tensors, write_tensors
from .kmeans import kmeans
from .memory import check_memory

METHODS = ("int8", "int8-symmetric", "pq", "low-rank")


@dataclass(frozen=True)
class Compressed:
    """Compressed vectors (V, D): `method`, one of `METHODS`, and its tensors.

    - `int8`: `codes` (V, D) uint8, `low` and `step` (V,) float32; x ≈ low + step · code, with low the row's smallest
      number and step (largest - smallest) / 255.
    - `int8-symmetric`: `codes` (V, D) int8 in -127..127, `step` (V,) float32; x ≈ step · code.
    - `pq` (Jégou et al. 2011): `codes` (V, M) uint8, `centroids` (M, K, S) float32, K <= 256, M · S >= D (zeros fill
      up the last part); x ≈ |x| · (the centroids of its codes, one after another); `norms` (V,) float32.
    - `low-rank`: `left` (V, R) and `right` (R, D) float32; X ≈ left · right.
    """

    method: str
    tensors: dict[str, torch.Tensor]
    dim: int

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def __len__(self) -> int:
        return len(self.tensors["left" if self.method == "low-rank" else "codes"])

    def decode(self, rows: slice | Sequence[int] | torch.Tensor | None = None) -> torch.Tensor:
        """Return the approximate vectors (V, D) float32, or those of some `rows`."""
        rows = slice(None) if rows is None else rows
        get = lambda name: self.tensors[name][rows]  # noqa: E731
        if self.method == "int8":
            return torch.addcmul(get("low")[:, None], get("codes").float(), get("step")[:, None])
        if self.method == "int8-symmetric":
            return get("codes").float() * get("step")[:, None]
        if self.method == "low-rank":
            return get("left") @ self.tensors["right"]
        codes, centroids = get("codes").long(), self.tensors["centroids"]
        parts = centroids[torch.arange(len(centroids)), codes]  # (V, M, S)
        return parts.flatten(1)[:, : self.dim] * get("norms")[:, None]


def compress(
    vectors: np.ndarray | torch.Tensor,
    method: str = "int8",
    *,
    parts: int | None = None,
    rank: int | None = None,
    seed: int = 0,
) -> Compressed:
    """Compress vectors (V, D); sizes for float32 of D = 300 in brackets.

    Args:
        vectors: (V, D) float, finite.
        method: `int8` (a quarter and 8 bytes a row), `int8-symmetric` (a quarter and 4 bytes a row), `pq` (`parts`
            bytes and 4 bytes a row), `low-rank` (rank / D).
        parts: for `pq`, into how many parts a vector is cut, a byte each; default D / 4, at least 1.
        rank: for `low-rank`; default D / 2, at least 1.
        seed: for `pq`; equal seeds give equal results on the same machine.

    Raises:
        ValueError: an argument that makes no sense, or a vector that is not finite.
    """
    x = torch.as_tensor(vectors).detach().float().cpu().contiguous()
    if x.dim() != 2 or x.shape[1] < 1:
        raise ValueError(f"vectors: expected shape (V, D) with D >= 1, got {tuple(x.shape)}")
    bad = first_not_finite(x.numpy())
    if bad is not None:
        raise ValueError(f"vectors: row {bad} is not finite")
    if parts is not None and method != "pq":
        raise ValueError(f"parts: only for pq, got {parts} with {method!r}")
    if rank is not None and method != "low-rank":
        raise ValueError(f"rank: only for low-rank, got {rank} with {method!r}")
    dim = x.shape[1]
    if method == "int8":
        return _min_max(x)
    if method == "int8-symmetric":
        return _symmetric(x)
    if method == "pq":
        return _product(x, _within("parts", parts, max(1, dim // 4), dim), seed)
    if method == "low-rank":
        return _low_rank(x, _within("rank", rank, max(1, dim // 2), dim))
    raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")


def _within(name: str, value: int | None, default: int, most: int) -> int:
    value = default if value is None else value
    if not 1 <= value <= most:
        raise ValueError(f"{name}: expected 1 to {most}, got {value}")
    return value


def _min_max(x: torch.Tensor) -> Compressed:
    low, high = x.aminmax(dim=1) if len(x) else (x.new_empty(0), x.new_empty(0))
    step = ((high.double() - low) / 255).float()  # in float64, where the range may exceed float32's
    scale = torch.where(step > 0, step, 1.0)
    codes = ((x - low[:, None]) / scale[:, None]).round_().clamp_(0, 255).to(torch.uint8)
    return Compressed("int8", {"codes": codes, "low": low, "step": step}, x.shape[1])


def _symmetric(x: torch.Tensor) -> Compressed:
    step = (x.abs().amax(dim=1) if len(x) else x.new_empty(0)) / 127
    scale = torch.where(step > 0, step, 1.0)
    codes = (x / scale[:, None]).round_().clamp_(-127, 127).to(torch.int8)
    return Compressed("int8-symmetric", {"codes": codes, "step": step}, x.shape[1])


def _product(x: torch.Tensor, parts: int, seed: int) -> Compressed:
    """Directions are quantised, and lengths kept beside: what is compared later is directions.

    The k-means is our own, of torch's matrix products: all parts are clustered at once, without a further dependency.
    Beside scikit-learn's MiniBatchKMeans (25 parts of 16,384 random points in 4 dimensions, 20 passes, 2 cores) it took
    2.1 s against 1.9 s and 5.1 s (batches of 1,024 and 4,096), with 4 % and 3 % less squared error.
    """
    rows, dim = x.shape
    norms = torch.linalg.vector_norm(x, dim=1)
    size = -(-dim // parts)
    unit = torch.zeros(rows, parts * size)
    unit[:, :dim] = x / torch.where(norms > 0, norms, 1.0)[:, None]
    unit = unit.view(rows, parts, size).transpose(0, 1)  # (M, V, S)
    centroids, codes = kmeans(unit, min(256, max(1, rows)), seed=seed)
    return Compressed(
        "pq", {"codes": codes.T.to(torch.uint8).contiguous(), "centroids": centroids, "norms": norms}, dim
    )


def _low_rank(x: torch.Tensor, rank: int) -> Compressed:
    """The best approximation of that rank (Eckart and Young 1936), from the eigenvectors of X'X: D x D in float64."""
    gram = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for block in x.split(1 << 14):
        block = block.double()
        gram += block.T @ block
    _, vectors = torch.linalg.eigh(gram)
    right = vectors[:, -rank:].flip(1).T.float().contiguous()  # (R, D), orthonormal rows, the strongest first
    return Compressed("low-rank", {"left": x @ right.T, "right": right}, x.shape[1])


# ---- files -------------------------------------------------------------------------------------------------------


def save_compressed(
    path: PathLike, words: Sequence[str], packed: Compressed, counts: Sequence[int] | np.ndarray | None = None
) -> None:
    """Write compressed vectors and their words to a safetensors file, which `formats.load_vectors` reads.

    Raises:
        ValueError: words or counts that do not match.
        OSError: the file cannot be written.
    """
    table = check_table(words, np.zeros((len(packed), 1), np.float32), counts)  # checks all but the vectors
    tensors = {**packed.tensors, **pack_words(table.words, table.counts)}
    write_tensors(path, packed.method, tensors, {"dim": packed.dim})


def load_compressed(path: PathLike) -> tuple[list[str], Compressed, np.ndarray | None]:
    """Read what `save_compressed` wrote, still compressed: words, vectors and counts (or None).

    Raises:
        FormatError: damaged, or not compressed vectors.
        OSError: the file cannot be read.
    """
    path = Path(path)
    about, tensors = read_tensors(path)
    packed = _checked(path, about, tensors)
    table = finish_table(path, torch.zeros(len(packed), 1), tensors, ReadOptions())
    return table.words, packed, table.counts


_SHAPES: dict[str, dict[str, tuple[torch.dtype, str]]] = {  # letters: sizes that agree
    "int8": {"codes": (torch.uint8, "VD"), "low": (torch.float32, "V"), "step": (torch.float32, "V")},
    "int8-symmetric": {"codes": (torch.int8, "VD"), "step": (torch.float32, "V")},
    "pq": {"codes": (torch.uint8, "VM"), "centroids": (torch.float32, "MKS"), "norms": (torch.float32, "V")},
    "low-rank": {"left": (torch.float32, "VR"), "right": (torch.float32, "RD")},
}


def _checked(path: Path, about: dict, tensors: dict[str, torch.Tensor]) -> Compressed:
    shapes = _SHAPES.get(str(about["kind"]))
    dim = about.get("dim")
    if shapes is None or not isinstance(dim, int) or not 1 <= dim < 1 << 32:
        raise FormatError(f"{path}: holds {about['kind']!r} of dim {dim!r}, expected one of {', '.join(_SHAPES)}")
    need(path, tensors, "words", "word_ends", *shapes)
    sizes = {"D": dim}
    for name, (dtype, letters) in shapes.items():
        got = tuple(tensors[name].shape)
        agree = len(got) == len(letters) and all(sizes.setdefault(a, n) == n for a, n in zip(letters, got, strict=True))
        if tensors[name].dtype != dtype or not agree:
            raise FormatError(f"{path}: {name} is {tensors[name].dtype} of shape {got}, expected {dtype} ({letters})")
        if dtype == torch.float32 and not tensors[name].isfinite().all():
            raise FormatError(f"{path}: {name} is not finite")
    if about["kind"] == "pq":
        parts_fit = sizes["M"] > 0 and sizes["S"] == -(-dim // sizes["M"])
        if not parts_fit or (tensors["codes"].numel() and int(tensors["codes"].max()) >= sizes["K"]):
            raise FormatError(f"{path}: codes and centroids do not fit together")
    return Compressed(about["kind"], {name: tensors[name] for name in shapes}, dim)


def read_compressed(path: Path, options: ReadOptions) -> VectorTable:
    """Read compressed vectors as float32 (V, D); see `formats.load_vectors`. MemoryError where they are too many."""
    about, tensors = read_tensors(path)
    packed = _checked(path, about, tensors)
    dim = packed.dim
    check_memory(4 * len(packed) * dim, f"{path}: {len(packed)} vectors of dim {dim} take")
    return finish_table(path, packed.decode(), tensors, options)
