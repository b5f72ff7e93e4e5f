"""Phrases: from a text file to one with phrases joined, beside gensim's Phrases on the same lines, one run each.

python bench/phrases.py --corpus imdb.txt --lines 25000 --out bench/results/phrases-cpu.json
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path

from gensim.models.phrases import Phrases
from gensim.models.word2vec import LineSentence
from measuring import machine

import w2v_ext
from w2v_ext.phrases import PhraseOptions, join_corpus


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--lines", type=int, default=25_000, help="the first so many; gensim needs minutes for more")
    parser.add_argument("--out", required=True)
    line = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text, ours, theirs = (str(Path(folder, name)) for name in ("text.txt", "ours.txt", "theirs.txt"))
        with open(line.corpus) as source, open(text, "w") as target:
            target.writelines(itertools.islice(source, line.lines))

        threads = len(os.sched_getaffinity(0))
        started = time.perf_counter()
        options = w2v_ext.CorpusOptions(min_count=1)
        corpus = w2v_ext.prepare_corpus(text, options, cache_dir=folder, threads=threads)
        found = join_corpus(corpus, ours, PhraseOptions(), threads=threads, directory=folder)
        our_seconds = time.perf_counter() - started

        started = time.perf_counter()
        model = Phrases(LineSentence(text))
        counted = time.perf_counter() - started
        frozen = model.freeze()
        with open(theirs, "w") as target:
            for sentence in LineSentence(text):
                target.write(" ".join(frozen[sentence]) + "\n")
        gensim_seconds = time.perf_counter() - started

        result = {
            "machine": machine("gensim"),
            "threads": threads,
            "lines": line.lines,
            "words": corpus.num_tokens,
            "phrases": len(found),
            "same_text": Path(ours).read_bytes() == Path(theirs).read_bytes(),
            "seconds": our_seconds,
            "words_per_second": corpus.num_tokens / our_seconds,
            "gensim_seconds": gensim_seconds,
            "gensim_counting_seconds": counted,
            "gensim_words_per_second": corpus.num_tokens / gensim_seconds,
            "times_gensim": gensim_seconds / our_seconds,
        }
    Path(line.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
