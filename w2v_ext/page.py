"""An interactive map of words: one HTML page of plain JavaScript that needs no other file and no network."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from .files import write_files
from .keyedvectors import KeyedVectors
from .palette import PALETTE
from .projection import NAMES, Method, project
from .selection import select_words
from .themes import Themes


def write_map_page(
    vectors: KeyedVectors,
    out: str | Path,
    *,
    method: Method = "tsne",
    words: Sequence[str] = (),
    themes: Themes | None = None,
    around: Sequence[str] = (),
    neighbors: int = 12,
    top: int | None = None,
    skip: int = 0,
    clusters: int = 0,
    shown_neighbors: int = 10,
    title: str | None = None,
    seed: int = 0,
    perplexity: float = 30.0,
) -> list[str]:
    """Write a page with a map to zoom, drag, point at and search in; some ten thousand words are fluent.

    A click on a word lists its nearest neighbours, which are computed here among all words and in all dimensions, and
    so do not depend on the projection: n·V·D multiply-adds for n words on the map.

    Args:
        vectors: the word vectors.
        out: the HTML file.
        method, seed, perplexity: see `projection.project`.
        words, themes, around, neighbors, top, skip, clusters: which words; see `selection.select_words`.
        shown_neighbors: how many neighbours a click lists.
        title: of the page.

    Returns:
        The words that were asked for and are not in the vocabulary.

    Raises:
        ValueError: see `select_words` and `project`.
        ImportError: a package is missing; it names the extra.
        OSError: the file cannot be written.
    """
    if shown_neighbors < 0:
        raise ValueError(f"shown_neighbors: expected a number >= 0, got {shown_neighbors}")
    chosen = select_words(
        vectors,
        words=words,
        themes=themes,
        around=around,
        neighbors=neighbors,
        top=top,
        skip=skip,
        clusters=clusters,
        seed=seed,
    )
    order = np.argsort(chosen.groups < 0, kind="stable")  # the page labels words in this order
    rows, groups = chosen.rows[order], chosen.groups[order]
    flat = project(vectors.vectors[rows], method, seed=seed, perplexity=perplexity)
    spread = float(np.abs(flat.points - flat.points.mean(axis=0)).max()) or 1.0
    points = (flat.points - flat.points.mean(axis=0)) / spread * 1000
    place = {int(row): index for index, row in enumerate(rows)}
    near_rows, near_cosines = vectors.nearest_rows(vectors.vectors[rows], shown_neighbors, exclude=rows[:, None])
    key = vectors.index_to_key
    near = [
        [[place.get(row, key[row]), round(cosine, 3)] for row, cosine in zip(line, cosines, strict=True) if row >= 0]
        for line, cosines in zip(near_rows.tolist(), near_cosines.tolist(), strict=True)
    ]
    data = {
        "title": title if title is not None else f"Word map, {NAMES[method]}",
        "foot": flat.description,
        "vocabulary": len(vectors),
        "words": [key[row] for row in rows],
        "x": points[:, 0].round(2).tolist(),
        "y": (-points[:, 1]).round(2).tolist(),  # a screen's y runs down
        "group": groups.tolist(),
        "names": chosen.names,
        "colors": [PALETTE[group % len(PALETTE)] for group in range(len(chosen.names))],
        "counts": None if vectors.counts is None else vectors.counts[rows].tolist(),
        "near": near,
    }
    page = fill_page(data)
    write_files({Path(out): lambda target: target.write_text(page, encoding="utf-8", errors="replace")})
    return chosen.missing


def fill_page(data: dict) -> str:
    """Put the data into the template; a word like </script> stays a word."""
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"title": html.escape(data["title"]), "data": text}
    return re.sub(r"\{\{(title|data)\}\}", lambda match: parts[match[1]], template)
