"""Write the tables of README.md from bench/results/*.json, between the comments that name them.

    python bench/tables.py

`make bench CORPUS=imdb.txt EVAL=eval` measures everything and calls this at the end.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
NAMES = {
    "gensim": "gensim (`sg=1`, `corpus_file`)",
    "gensim-decay": "gensim, each thread's learning rate brought to the end",
    "fasttext": "fastText (PyPI, no subwords)",
    "avx2": "w2v_ext, AVX2 only",
    "w2v_ext": "w2v_ext",
}


def load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def millions(rate: dict) -> str:
    return f"{rate['median'] / 1e6:.3g} M ({rate['min'] / 1e6:.3g}–{rate['max'] / 1e6:.3g})"


def times(ratio: dict) -> str:
    return f"**{ratio['median']:.1f}** ({ratio['min']:.1f}–{ratio['max']:.1f})"


def trainer() -> list[str]:
    lines = [
        "| | raw words/s | times gensim | WS353 | SimLex-999 | analogies |",
        "|---|---|---|---|---|---|",
    ]
    names = ("trainer-cpu", "trainer-cpu-1-epoch", "trainer-cpu-dim-300")
    reports = [load(name) for name in names if (RESULTS / f"{name}.json").exists()]
    for report in reports:
        settings, summary = report["settings"], report["summary"]
        epochs = f"{settings['epochs']} epoch" + "s" * (settings["epochs"] > 1)
        lines.append(f"| *dim {settings['dim']}, {epochs}, {len(report['runs']['gensim'])} seeds* | | | | | |")
        for side in (side for side in NAMES if side in report["runs"]):
            figures = summary[side]
            quality = " | ".join(f"{figures[key]['mean']:.3f}" for key in ("ws353", "simlex", "analogies"))
            ratio = "1" if side == "gensim" else times(summary[f"{side} / gensim"])
            lines.append(f"| {NAMES[side]} | {millions(figures['words_per_second'])} | {ratio} | {quality} |")
    machine = reports[0]["machine"]
    lines += [
        "",
        f"{machine['cores']} cores of {machine['cpu']} ({machine['kernels']}), Python {machine['python']}, PyTorch "
        f"{machine['torch']}, gensim {machine['gensim']}, commit {machine['commit']}, {machine['date']}.",
    ]
    return lines


def loss() -> list[str]:
    names = {
        "eager": "two `nn.Embedding`, bmm, logsigmoid",
        "sparse": "the same, `sparse=True`",
        "compiled": "the same, `torch.compile`",
        "fused": "`SkipGramNegSampling`",
        "fused_sparse": "`SkipGramNegSampling(sparse_grad=True)`",
        "fused_rows": "the same, stepped by `w2v_ext.optim.SparseSGD`",
        "step_": "`sgns_step_`",
    }
    medians: dict[tuple[str, int], float] = {}
    for bench in load("loss-cpu")["benchmarks"]:
        if "side" in bench["params"] and bench["params"]["side"] in names:
            medians[bench["params"]["side"], bench["params"]["batch"]] = 1e3 * bench["stats"]["median"]
    batches = sorted({batch for _, batch in medians})
    lines = ["| | " + " | ".join(f"B {batch:,}" for batch in batches) + " |", "|---" * (len(batches) + 1) + "|"]
    best = {batch: min(medians[side, batch] for side in ("eager", "sparse", "compiled")) for batch in batches}
    for side, name in names.items():
        if (side, batches[0]) not in medians:
            continue
        cells = []
        for batch in batches:
            value = medians[side, batch]
            cell = f"{value:.3g}" if value < 1000 else f"{value:.0f}"
            cells.append(cell if side in ("eager", "sparse", "compiled") else f"{cell} ({best[batch] / value:.1f} ×)")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def scaling() -> list[str]:
    report = load("scaling-cpu")
    threads = report["settings"]["threads"]

    def row(name: str, entry: dict) -> str:
        one, many = entry["threads_1"], entry[f"threads_{threads}"]
        return f"| {name} | {millions(one)} | {millions(many)} | {entry['ratio']['median']:.2f} |"

    lines = [f"| | raw words/s, 1 thread | {threads} threads | ratio |", "|---|---|---|---|"]
    if "corpus" in report:
        lines.append(row(f"the corpus above, {report['corpus']['vocabulary']:,} words, dim 100", report["corpus"]))
    for vocab, entry in report["vocabulary"].items():
        table = 2 * 4 * 112 * int(vocab) / 2**20
        lines.append(row(f"Zipf, {int(vocab):,} words ({table:,.0f} MiB), dim 100", entry))
    for dim, entry in report["dim"].items():
        table = 2 * 4 * (-(-int(dim) // 16) * 16) * 50_000 / 2**20
        lines.append(row(f"Zipf, 50,000 words, dim {dim} ({table:,.0f} MiB)", entry))
    return lines


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text()
    for name, table in {"trainer": trainer, "loss": loss, "scaling": scaling}.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not block.search(text):
            raise SystemExit(f"README.md: no <!-- {name} --> ... <!-- end -->")
        rows = "\n".join(table())
        text = block.sub(lambda match, rows=rows: f"{match[1]}\n{rows}\n\n{match[2]}", text)
    readme.write_text(text)


if __name__ == "__main__":
    main()
