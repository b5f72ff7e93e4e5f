"""What a quality report holds: dataclasses, and their way to JSON, text and HTML."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .files import write_files
from .json_values import json_text, json_values


@dataclass(frozen=True)
class PairSimilarity:
    """Two words and their cosine; None where one of them (named in `missing`) has no vector."""

    first: str
    second: str
    similarity: float | None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class ThemeFigures:
    """How close the words of a group lie to one another.

    Attributes:
        name, words, missing: the group; the words of it that have a vector, and those that have none.
        mean_similarity: mean cosine over the pairs of `words`; None below two words.
        lift: `mean_similarity` - mean cosine of all pairs of the vocabulary.
        deviations: `lift` in standard deviations of the cosines of all pairs.
        least_typical: (word, its mean cosine to the others) of the word that fits worst.
    """

    name: str
    words: tuple[str, ...]
    missing: tuple[str, ...]
    mean_similarity: float | None
    lift: float | None
    deviations: float | None
    least_typical: tuple[str, float] | None


@dataclass(frozen=True)
class Distribution:
    """A histogram: `counts[i]` values in [`edges[i]`, `edges[i + 1]`), and some quantiles (probability -> value)."""

    mean: float
    std: float
    minimum: float
    maximum: float
    quantiles: dict[str, float]
    edges: list[float] = field(repr=False)
    counts: list[int] = field(repr=False)


@dataclass(frozen=True)
class Anomaly:
    """A word whose norm lies more than k standard deviations from the mean; `deviations` is signed."""

    word: str
    norm: float
    deviations: float
    count: int | None


@dataclass(frozen=True)
class Isotropy:
    """How evenly the vectors use their space; 1 is isotropic for the first two.

    Attributes:
        partition_ratio: min Z(c) / max Z(c), Mu & Viswanath, "All-but-the-Top" (ICLR 2018).
        iso_score: Rudman et al., "IsoScore" (Findings of ACL 2022).
        mean_cosine: mean cosine of all pairs; 0 is isotropic (Ethayarajh, EMNLP 2019).
        effective_dimensions: (Σ λ)² / Σ λ², the participation ratio of the principal variances λ.
        mean_share: |mean vector|² / mean squared norm: the share that all vectors have in common.
        variance_shares: share of the variance along each principal axis, greatest first.
    """

    partition_ratio: float
    iso_score: float
    mean_cosine: float
    effective_dimensions: float
    mean_share: float
    variance_shares: list[float] = field(repr=False)


@dataclass(frozen=True)
class FrequencyBand:
    """Norms of the words that occur `lowest` to `highest` times."""

    lowest: int
    highest: int
    words: int
    mean_norm: float
    std_norm: float


@dataclass(frozen=True)
class FrequencyNorms:
    """Frequency against norm.

    Attributes:
        spearman: rank correlation of count and norm over the vocabulary.
        bands: by powers of two of the count, rarest first.
        sample: (count, norm, word) of some words spread over the vocabulary, for a picture.
    """

    spearman: float
    bands: list[FrequencyBand]
    sample: list[tuple[int, float, str]] = field(repr=False)


@dataclass(frozen=True)
class QualityReport:
    """What `analyze_embedding_quality` found; `notes` say what was sampled or left out.

    Attributes:
        vocab_size, dim: V and D.
        zero_words, nonfinite_words: rows without a direction (up to 50 of each are named), and `zero_count`,
            `nonfinite_count`, how many there are.
        most_similar: the most similar pairs among the first `pair_words` words.
        themes: figures of the user's groups; `theme_similarity[i][j]` is the mean cosine between groups i and j.
        pairs: cosines of the user's pairs.
        norms: of the vectors, exact.
        similarities: of all pairs; mean and std are exact, the rest comes from `similarity_pairs` of them.
        anomalies: the `anomaly_count` norms beyond `k_sigma` standard deviations, furthest first, 50 at most.
        isotropy, frequency: see there; `frequency` is None where counts are not known.
        seconds: how long it took.
    """

    vocab_size: int
    dim: int
    zero_count: int
    zero_words: list[str]
    nonfinite_count: int
    nonfinite_words: list[str]
    pair_words: int
    most_similar: list[PairSimilarity]
    themes: list[ThemeFigures]
    theme_similarity: list[list[float | None]]
    pairs: list[PairSimilarity]
    norms: Distribution
    similarities: Distribution
    similarity_pairs: int
    k_sigma: float
    anomaly_count: int
    anomalies: list[Anomaly]
    isotropy: Isotropy
    frequency: FrequencyNorms | None
    notes: list[str]
    seconds: float

    def to_dict(self) -> dict:
        """Return the report as JSON values, without `frequency.sample`; what is not a finite number becomes None."""
        values = dataclasses.asdict(self)
        if values["frequency"] is not None:
            del values["frequency"]["sample"]
        return json_values(values)

    def to_json(self) -> str:
        """Return the report as indented JSON."""
        return json_text(self.to_dict(), indent=2)

    def to_text(self) -> str:
        """Return the report as lines for a terminal."""
        from .report import to_text

        return to_text(self)

    def to_html(self, title: str = "Embedding quality", pictures: Sequence[tuple[str, bytes]] = ()) -> str:
        """Return the report as one HTML page that needs no other file and no network.

        Args:
            title: of the page.
            pictures: more of them, (caption, SVG or PNG), put first.

        Raises:
            ImportError: matplotlib is missing; it names the extra.
        """
        from .report import to_html

        return to_html(self, title, pictures)

    def save_html(self, path: str | os.PathLike[str], title: str = "Embedding quality") -> None:
        """Write `to_html` to a file, which appears whole or not at all."""
        page = self.to_html(title)
        write_files({Path(path): lambda target: target.write_text(page, encoding="utf-8")})
