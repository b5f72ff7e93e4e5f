"""A quality report as text for a terminal, and as one HTML page with its pictures inside."""

from __future__ import annotations

import base64
import html
import unicodedata
from collections.abc import Sequence

from .quality import PairSimilarity, QualityReport, ThemeFigures

Rows = Sequence[Sequence[object]]


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


# ---- text --------------------------------------------------------------------------------------------------------


def to_text(report: QualityReport) -> str:
    """See `QualityReport.to_text`."""
    lines = [f"{report.vocab_size:,} words, {report.dim} dimensions ({report.seconds:.1f} s)"]
    for kind, words, count in (
        ("zero", report.zero_words, report.zero_count),
        ("non-finite", report.nonfinite_words, report.nonfinite_count),
    ):
        if count:
            lines.append(f"  {count:,} {kind} vectors: {', '.join(words[:10])}{', ...' if count > 10 else ''}")
    lines += [f"  note: {note}" for note in report.notes]
    s, n = report.similarities, report.norms
    lines += _section("Similarity of all pairs (cosine)")
    lines.append(f"  mean {_number(s.mean)}   std {_number(s.std)}   {_quantiles(s.quantiles)}")
    lines += _section("Norms")
    lines.append(
        f"  mean {_number(n.mean)}   std {_number(n.std)}   min {_number(n.minimum)}   max {_number(n.maximum)}   "
        f"{_quantiles(n.quantiles)}"
    )
    if report.frequency is not None:
        lines.append(f"  rank correlation of frequency and norm: {_number(report.frequency.spearman)}")
    lines += _section("Isotropy (1 is even use of the space, but for the mean cosine, where 0 is)")
    lines += [f"  {name:<50} {value}" for name, value, _ in isotropy_rows(report)]
    if report.themes:
        lines += _section("Themes: mean cosine within the group, against all pairs")
        rows = [
            (t.name, len(t.words), _number(t.mean_similarity), _signed(t.lift), _signed(t.deviations, 1), _worst(t))
            for t in report.themes
        ]
        lines += _table(("theme", "words", "within", "lift", "in std", "fits worst"), rows)
        for theme in report.themes:
            if theme.missing:
                lines.append(f"  {theme.name}: not in the vocabulary: {', '.join(theme.missing)}")
    if report.pairs:
        lines += _section("Pairs")
        lines += _table(("pair", "", "cosine"), [(p.first, p.second, _pair_value(p)) for p in report.pairs])
    if report.most_similar:
        lines += _section(f"Most similar pairs among the first {report.pair_words:,} words")
        lines += _table(
            ("pair", "", "cosine"), [(p.first, p.second, _number(p.similarity)) for p in report.most_similar]
        )
    lines += _section(f"Anomalies: |norm - mean| > {report.k_sigma:g} std: {report.anomaly_count:,} words")
    if report.anomalies:
        rows = [(a.word, _count(a.count), _number(a.norm), _signed(a.deviations, 1)) for a in report.anomalies[:15]]
        lines += _table(("word", "count", "norm", "in std"), rows)
        if report.anomaly_count > 15:
            lines.append(f"  ... and {report.anomaly_count - 15:,} more")
    return "\n".join(lines)


def isotropy_rows(report: QualityReport) -> list[tuple[str, str, str]]:
    """Return (measure, value, what it says)."""
    i = report.isotropy
    return [
        (
            "partition-function ratio (Mu & Viswanath 2018)",
            _number(i.partition_ratio),
            "min Z(c) / max Z(c) over the eigenvectors of the vectors' second moment; 1 is isotropic.",
        ),
        (
            "IsoScore (Rudman et al. 2022)",
            _number(i.iso_score),
            "How evenly the variance spreads over the dimensions, from 0 (a line) to 1.",
        ),
        (
            "mean cosine of all pairs (Ethayarajh 2019)",
            _number(i.mean_cosine),
            "0 where directions are even. High: all vectors point one way, and cosines are hard to tell apart.",
        ),
        (
            "effective dimensions (participation ratio)",
            f"{_number(i.effective_dimensions, 1)} of {report.dim}",
            "(Σλ)² / Σλ² of the principal variances λ: how many dimensions are in use.",
        ),
        (
            "share of the common mean vector",
            _number(i.mean_share),
            "|mean|² / mean squared norm: what all vectors share. Subtracting the mean removes it.",
        ),
    ]


def _quantiles(quantiles: dict[str, float]) -> str:
    wanted = {"0.01": "1 %", "0.5": "median", "0.99": "99 %"}
    return "   ".join(f"{name} {_number(quantiles[key])}" for key, name in wanted.items() if key in quantiles)


def _signed(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:+.{digits}f}"


def _worst(theme: ThemeFigures) -> str:
    return "–" if theme.least_typical is None else f"{theme.least_typical[0]} {theme.least_typical[1]:.2f}"


def _pair_value(pair: PairSimilarity) -> str:
    return f"not in the vocabulary: {', '.join(pair.missing)}" if pair.missing else _number(pair.similarity)


def _section(title: str) -> list[str]:
    return ["", title]


def _columns(text: str) -> int:
    """Columns a text takes in a terminal: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text if not unicodedata.combining(c))


def _table(header: Sequence[str], rows: Rows) -> list[str]:
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(_columns, column)) for column in zip(*cells, strict=True)]
    numeric = [all(_is_number(row[i]) for row in cells[1:]) for i in range(len(header))]
    lines = []
    for row in cells:
        parts = []
        for cell, width, right in zip(row, widths, numeric, strict=True):
            gap = " " * (width - _columns(cell))
            parts.append(gap + cell if right else cell + gap)
        lines.append(("  " + "   ".join(parts)).rstrip())
    return lines


def _is_number(text: str) -> bool:
    return text == "–" or not text.strip("+-.,0123456789")


# ---- HTML --------------------------------------------------------------------------------------------------------

_STYLE = """
body { margin: 0; background: #f4f6f8; color: #20262e; font: 15px/1.5 system-ui, "Noto Sans", "Noto Sans CJK SC",
  "PingFang SC", "Microsoft YaHei", sans-serif; }
main { max-width: 1020px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { margin: 0; font-size: 27px; } h2 { margin: 0 0 4px; font-size: 19px; }
.soft { color: #66707c; } p { margin: 4px 0 12px; max-width: 76ch; }
section { background: #fff; border: 1px solid #dfe4ea; border-radius: 10px; padding: 18px 22px; margin-top: 18px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 18px; }
.card { background: #fff; border: 1px solid #dfe4ea; border-radius: 10px; padding: 12px 16px; }
.card b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.card span { color: #66707c; font-size: 13px; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); gap: 8px 28px;
  align-items: start; }
table { border-collapse: collapse; width: 100%; } .scroll { overflow-x: auto; }
th, td { text-align: left; padding: 4px 18px 4px 0; border-bottom: 1px solid #edf0f3; vertical-align: top; }
th { font-weight: 600; color: #66707c; font-size: 13px; white-space: nowrap; }
td { overflow-wrap: anywhere; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
figure { margin: 10px 0 0; } img { max-width: 100%; height: auto; display: block; }
figcaption { color: #66707c; font-size: 13px; margin-top: 4px; }
ul.notes { margin: 10px 0 0; padding-left: 20px; color: #66707c; font-size: 14px; }
details { margin-top: 10px; } summary { cursor: pointer; color: #66707c; }
@media print { body { background: #fff; } section, .card { break-inside: avoid; } }
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # nothing is fetched from anywhere


def to_html(report: QualityReport, title: str, pictures: Sequence[tuple[str, bytes]] = ()) -> str:
    """See `QualityReport.to_html`."""
    from . import report_pictures

    drawn = report_pictures.draw(report)
    cards = [
        (f"{report.vocab_size:,}", "words"),
        (str(report.dim), "dimensions"),
        (_number(report.similarities.mean), "mean cosine, all pairs"),
        (_number(report.isotropy.iso_score), "IsoScore (1: even)"),
        (_number(report.norms.mean, 2), "mean norm"),
        (f"{report.anomaly_count:,}", f"norms beyond {report.k_sigma:g} σ"),
    ]
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        '<div class="cards">'
        + "".join(f'<div class="card"><b>{v}</b><span>{html.escape(k)}</span></div>' for v, k in cards),
        "</div>",
    ]
    notes = [*_lost(report), *report.notes]
    if notes:
        parts.append('<ul class="notes">' + "".join(f"<li>{html.escape(note)}</li>" for note in notes) + "</ul>")
    parts += [f"<section>{_figure(data, caption)}</section>" for caption, data in pictures]
    parts += _themes_html(report, drawn)
    if report.pairs:
        rows = [(p.first, p.second, _pair_value(p)) for p in report.pairs]
        parts.append(
            _block("Pairs", "Cosines of the pairs that were asked for.", _html_table(("pair", "", "cosine"), rows))
        )
    parts.append(
        _block(
            "Similarity of all pairs",
            "The further the mean lies from 0, the less a cosine says by itself: compare with this distribution.",
            _figure(drawn["similarities"], "Cosines of pairs of words; the dashed line is the mean of all pairs."),
        )
    )
    similar = [(p.first, p.second, _number(p.similarity)) for p in report.most_similar]
    if similar:
        half = (len(similar) + 1) // 2
        both = "".join(
            f"<div>{_html_table(('pair', '', 'cosine'), part)}</div>" for part in (similar[:half], similar[half:])
        )
        about = (
            f"Among the first {report.pair_words:,} words. Names and set phrases are usual here; near-duplicates such "
            "as spelling variants show what a cleaner text would merge."
        )
        parts.append(_block("Most similar pairs", about, f'<div class="two">{both}</div>'))
    parts.append(_norms_html(report, drawn))
    rows = isotropy_rows(report)
    parts.append(
        _block(
            "Isotropy",
            "How evenly the vectors use their space.",
            f'<div class="two"><div>{_html_table(("measure", "value", "what it says"), rows, small=True)}</div>'
            f"{_figure(drawn['spectrum'], 'Variance along the principal axes; flat is isotropic.')}</div>",
        )
    )
    parts.append(f'<p class="soft" style="margin-top:18px">Made by w2v_ext in {report.seconds:.1f} s.</p>')
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def _lost(report: QualityReport) -> list[str]:
    found = (
        (report.zero_words, "zero", report.zero_count),
        (report.nonfinite_words, "non-finite", report.nonfinite_count),
    )
    return [f"{kind} vectors: {', '.join(words)}{', ...' if n > len(words) else ''}" for words, kind, n in found if n]


def _themes_html(report: QualityReport, drawn: dict[str, bytes]) -> list[str]:
    if not report.themes:
        return []
    rows = [
        (t.name, len(t.words), _number(t.mean_similarity), _signed(t.lift), _signed(t.deviations, 1), _worst(t))
        for t in report.themes
    ]
    body = _html_table(("theme", "words", "within", "lift", "lift / σ", "fits worst"), rows)
    missing = [f"{t.name}: {', '.join(t.missing)}" for t in report.themes if t.missing]
    if missing:
        body += f'<p class="soft">Not in the vocabulary: {html.escape("; ".join(missing))}</p>'
    figures = (
        _figure(drawn["themes"], "Mean cosine within each theme; grey: mean ± σ of all pairs.")
        if "themes" in drawn
        else ""
    )
    if "between" in drawn:
        figures += _figure(drawn["between"], "Mean cosine between themes; on the diagonal, within.")
    about = "Words that belong together should lie closer to one another than any two words do."
    return [_block("Themes", about, f'<div class="scroll">{body}</div><div class="two">{figures}</div>')]


def _norms_html(report: QualityReport, drawn: dict[str, bytes]) -> str:
    figures = _figure(drawn["norms"], f"Norms; the dashed lines stand at mean ± {report.k_sigma:g} σ.")
    if "frequency" in drawn:
        rho = _number(report.frequency.spearman)
        caption = f"Frequency against norm (rank correlation {rho}); the line joins the means of bands of frequency."
        figures += _figure(drawn["frequency"], caption)
    body = f'<div class="two">{figures}</div>'
    if report.anomalies:
        rows = [(a.word, _count(a.count), _number(a.norm), _signed(a.deviations, 1)) for a in report.anomalies]
        half = (len(rows) + 1) // 2
        header = ("word", "count", "norm", "in σ")
        tables = "".join(f"<div>{_html_table(header, part)}</div>" for part in (rows[:half], rows[half:]) if part)
        listed = f", the {len(rows)} furthest" if report.anomaly_count > len(rows) else ""
        body += (
            f"<details open><summary>{report.anomaly_count:,} norms lie more than {report.k_sigma:g} σ from the mean"
            f'{listed}</summary><div class="two">{tables}</div></details>'
        )
    about = (
        "Rare words stay short, because they are seldom updated; words with a context of their own grow long. A "
        "frequent word that is very long may come from boilerplate in the text."
    )
    return _block("Norms, and frequency", about, body)


def _block(title: str, about: str, body: str) -> str:
    return f'<section><h2>{html.escape(title)}</h2><p class="soft">{html.escape(about)}</p>{body}</section>'


def _figure(data: bytes, caption: str) -> str:
    kind = "image/png" if data.startswith(b"\x89PNG") else "image/svg+xml"
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    text = html.escape(caption)
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _html_table(header: Sequence[str], rows: Rows, small: bool = False) -> str:
    cells = [[str(cell) for cell in row] for row in rows]
    numeric = [all(_is_number(row[i]) for row in cells) for i in range(len(header))]
    mark = [' class="n"' if right else "" for right in numeric]
    head = "".join(f"<th{m}>{html.escape(name)}</th>" for name, m in zip(header, mark, strict=True))
    style = ' style="font-size:13px"' if small else ""
    body = "".join(
        "<tr>" + "".join(f"<td{m}>{html.escape(cell)}</td>" for cell, m in zip(row, mark, strict=True)) + "</tr>"
        for row in cells
    )
    return f"<table{style}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
