"""What a training's tables take in memory, with all the copies that are made of them; asked before the first is made.

One by one they would pass: memory that is only mapped does not count as used before something is written there.
"""

from __future__ import annotations

import os

from .config import TrainConfig
from .memory import check_memory

REMEDY = "lower dim, or the vocabulary by max_vocab or min_count"
_ROW_FLOATS = 16  # rows are padded to 64 bytes


def check_tables(vocab_size: int, rows: int, config: TrainConfig) -> None:
    """Refuse tables that do not fit this machine with what its other processes make at the same time.

    Args:
        vocab_size: words, for the message.
        rows: of all tables together, each ``config.dim`` float32 wide.
        config: the settings, of which the dimension, the device and the workers count.

    Raises:
        MemoryError: there is less than they take; the message says what to lower.
    """
    size = 4 * rows * -(-config.dim // _ROW_FLOATS) * _ROW_FLOATS
    copies, where, remedy = (1.0, "", REMEDY) if config.device == "cuda" else _copies(config)
    check_memory(int(copies * size), f"dim: the tables of {vocab_size} words x {config.dim}{where} take", remedy)


def _copies(config: TrainConfig) -> tuple[float, str, str]:
    """How often the tables are there on this machine, and in words: where, and what to lower."""
    from .distributed import GATHERED, num_ranks  # not before it is needed: it imports the methods

    ranks = num_ranks()
    here = min(ranks, int(os.environ.get("LOCAL_WORLD_SIZE", ranks)))
    if config.reproducible:
        copies = here * (2 + config.reproducible // ranks)  # as they start, what all agreed on, and each worker's
        return copies, f" for {config.reproducible} workers", f"{REMEDY}, or reproducible"
    if ranks == 1:
        return 1, "", REMEDY
    copies = here * 2.0  # the rows and their base, in float32
    if ranks > GATHERED:
        copies += here * 2  # what a rank gives, and the sum
    elif here == ranks:
        copies += ranks  # everybody's moves in bfloat16, twice, in common
    else:
        copies += here * ranks / 2
    return copies, f" and what {ranks} processes exchange", f"{REMEDY}, or start fewer processes"
