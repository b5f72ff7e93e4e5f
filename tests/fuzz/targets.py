"""What is fuzzed: for each reader small valid files, how to read them, and what it may raise."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import random
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import zstandard

import w2v_ext
from w2v_ext.approximate import ApproximateIndex
from w2v_ext.checkpoints import CHECKPOINT
from w2v_ext.classify import TextClassifier
from w2v_ext.corpus_files import Corpus, checksum
from w2v_ext.fasttext_vectors import FastTextVectors
from w2v_ext.files import FormatError
from w2v_ext.formats import FORMATS, load_fasttext_bin, load_vectors, read_counts, save_vectors
from w2v_ext.formats.streams import open_chunks
from w2v_ext.quantize import load_compressed
from w2v_ext.search import DocumentIndex, build_index
from w2v_ext.seq2seq import Seq2SeqConfig, build_model
from w2v_ext.seq2seq.files import MODEL, TextFiles, load_tensors, load_text, save_text, save_weights
from w2v_ext.seq2seq.files import load_model as load_translation
from w2v_ext.seq2seq.tokenizers import Tokenizer
from w2v_ext.sources import CorpusError
from w2v_ext.vocab import Vocabulary

from .mutations import mutate_file

WORDS = ["the", "naïve", "词", "film"]
COUNTS = np.array([9, 4, 2, 1])
TEXT = "the film the naïve 词\nfilm film the\n" * 3
Files = dict[str, bytes]


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        make: writes valid files below a directory; the one called "v" is what is read.
        read: reads a path; takes a random generator for its options, too.
        refuses: what it may raise.
        mend: puts right, most of the time, what guards the files (checksums), so that damage gets past it.
        weight: its part of all inputs; slow ones get fewer.
    """

    make: Callable[[Path], object]
    read: Callable[[Path, random.Random], object]
    refuses: tuple[type[Exception], ...] = (FormatError,)
    mend: Callable[[Files], None] | None = None
    weight: float = 1.0


def files_below(path: Path) -> Files:
    """The contents of a file ("") or of all files of a directory, by name."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def damage(target: Target, originals: Files, rng: random.Random) -> Files:
    """Files with damage in one of them, now and then in two or a missing one."""
    files = dict(originals)
    everything = b"".join(originals.values())
    for _ in range(rng.choice((1, 1, 1, 1, 2))):
        name = rng.choice(sorted(files))
        if len(files) > 1 and rng.random() < 0.01:
            del files[name]
            continue
        files[name] = mutate_file(rng, name, files[name], everything)
    if target.mend and rng.random() < 0.7:
        try:
            target.mend(files)
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
            pass  # too damaged to be put right
    return files


# ---- vectors -----------------------------------------------------------------------------------------------------


def _vectors(rows: int = 4, dim: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32)


def _check_table(table: w2v_ext.formats.VectorTable) -> None:
    assert len(table.words) == len(table.vectors) == len(set(table.words))
    assert np.isfinite(table.vectors).all()
    assert table.counts is None or len(table.counts) == len(table.words)
    assert all(isinstance(word, str) for word in table.words)


def _read_vectors(name: str, path: Path, rng: random.Random) -> None:
    options = {"bad_rows": "skip", "errors": "replace"} if rng.random() < 0.3 else {}
    if rng.random() < 0.2:
        options["limit"] = rng.choice((0, 1, 3, 10**9))
    if rng.random() < 0.1:
        options["dtype"] = rng.choice((np.float16, np.float64))
    _check_table(load_vectors(path, rng.choice((name, None)), threads=1, **options))


def _saved_as(name: str, suffix: str = "") -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        save_vectors(folder / "v", WORDS, _vectors(), COUNTS, name, threads=1)
        if suffix:
            pack = {"gz": partial(gzip.compress, mtime=0), "xz": lzma.compress, "zst": zstandard.compress}[suffix]
            (folder / "v").write_bytes(pack((folder / "v").read_bytes()))

    return make


def _fasttext(folder: Path) -> FastTextVectors:
    corpus = w2v_ext.corpus_from_sequences([["the", "film", "naïve"]] * 9)
    settings = {"model": "fasttext", "dim": 4, "epochs": 1, "min_count": 1, "buckets": 20, "min_n": 2, "max_n": 3}
    trainer = w2v_ext.Trainer(corpus, w2v_ext.TrainConfig(**settings, threads=1, device="cpu", sample=0)).fit()
    return trainer.keyed_vectors()


def _use_fasttext(vectors: FastTextVectors) -> None:
    assert vectors["unseen"].shape == (vectors.vector_size,)


def _read_fasttext_bin(path: Path, rng: random.Random) -> None:
    kind = rng.randrange(4)
    if kind == 0:
        model = load_fasttext_bin(path)
        assert model.vector("film").shape == (model.in_weight.shape[1],)
    elif kind == 1:
        _use_fasttext(FastTextVectors.load(path))
    else:
        _read_vectors("fasttext-bin", path, rng)


def _read_subword_model(path: Path, rng: random.Random) -> None:
    if rng.random() < 0.3:
        _read_vectors("model", path, rng)
    else:
        _use_fasttext(FastTextVectors.load(path))


def _read_compressed(name: str, path: Path, rng: random.Random) -> None:
    if rng.random() < 0.5:
        return _read_vectors(name, path, rng)
    words, packed, counts = load_compressed(path)
    assert len(words) == len(packed) and (counts is None or len(counts) == len(words))
    return None


def _mend_model(files: Files) -> None:
    _set_metadata(files, "vocab_crc32", zlib.crc32(files["vocab.tsv"]))


def _set_metadata(files: Files, name: str, value: object) -> None:
    """Put a value into the JSON of a safetensors file's metadata."""
    data = files["model.safetensors"]
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    about = json.loads(header["__metadata__"]["w2v_ext"])
    about[name] = value
    header["__metadata__"]["w2v_ext"] = json.dumps(about)
    text = json.dumps(header).encode()
    files["model.safetensors"] = len(text).to_bytes(8, "little") + text + data[8 + size :]


# ---- text --------------------------------------------------------------------------------------------------------


def _packed(folder: Path, pack: Callable[[bytes], bytes]) -> None:
    (folder / "v").write_bytes(pack(TEXT.encode()))


def _read_text(path: Path, rng: random.Random) -> None:
    options = w2v_ext.CorpusOptions(
        tokenizer=rng.choice(("whitespace", "word", "char")),
        lowercase=rng.random() < 0.3,
        errors=rng.choice(("strict", "replace")),
        min_count=1,
        specials=rng.random() < 0.2,
    )
    with w2v_ext.prepare_corpus(path, options, cache_dir=path.parent / "cache", threads=1) as corpus:
        corpus.verify()
        vocab, number = corpus.vocab, corpus.num_tokens
        assert vocab.total_count == number or vocab.num_specials
    for entry in (path.parent / "cache" / "corpora").iterdir():
        for file in entry.iterdir():
            file.unlink()
        entry.rmdir()


def _read_chunks(path: Path, rng: random.Random) -> None:
    with open_chunks(path) as chunks:
        assert sum(map(len, chunks)) < 1 << 26


def _make_corpus(folder: Path) -> None:
    (folder / "t").write_text(TEXT)
    corpus = w2v_ext.prepare_corpus(folder / "t", w2v_ext.CorpusOptions(min_count=1), cache_dir=folder, threads=1)
    corpus.path.rename(folder / "v")


def _read_corpus(path: Path, rng: random.Random) -> None:
    with Corpus.open(path) as corpus:
        corpus.verify()
        assert sum(map(len, corpus.sentences())) == corpus.num_tokens


def _mend_corpus(files: Files) -> None:
    meta = json.loads(files["corpus.json"])
    if "vocab_sha256" in meta:
        meta["vocab_sha256"] = hashlib.sha256(files["vocab.tsv"]).hexdigest()
    meta["checksum"] = checksum(meta)
    files["corpus.json"] = json.dumps(meta).encode()


def _make_vocabulary(folder: Path) -> None:
    Vocabulary(["<PAD>", "<SOS>", "<EOS>", "<UNK>", *WORDS], [0] * 4 + COUNTS.tolist()).save(folder / "v")


def _read_vocabulary(path: Path, rng: random.Random) -> None:
    vocab = Vocabulary.load(path)
    assert len(vocab.word_to_id) == len(vocab.counts)


# ---- training ----------------------------------------------------------------------------------------------------


@cache
def _trainer() -> w2v_ext.Trainer:
    corpus = w2v_ext.corpus_from_sequences([[1, 2, 3, 4]] * 20)
    settings = {"dim": 2, "epochs": 3, "threads": 1, "sample": 0, "min_count": 1, "device": "cpu"}
    return w2v_ext.Trainer(corpus, w2v_ext.TrainConfig(**settings))


def _make_checkpoint(folder: Path) -> None:
    _trainer().save_checkpoint(folder)
    (folder / CHECKPOINT).rename(folder / "v")


def _read_checkpoint(path: Path, rng: random.Random) -> None:
    trainer = _trainer()
    trainer.load_checkpoint(path)
    assert 0 <= trainer.state.epoch <= trainer.config.epochs
    assert 0 <= trainer.words_done <= trainer.total_words and trainer.lr > 0
    trainer.metrics(), trainer.loss


def _make_settings(folder: Path, suffix: str) -> None:
    (folder / "v").mkdir()
    settings = w2v_ext.TrainConfig(dim=10, corpus=("a",)).to_dict()
    text = json.dumps(settings) if suffix == "json" else "".join(f"{k}: {json.dumps(v)}\n" for k, v in settings.items())
    (folder / "v" / f"config.{suffix}").write_text(text)


def _read_settings(path: Path, rng: random.Random) -> None:
    kind = rng.choice((w2v_ext.TrainConfig, w2v_ext.TrainConfig, Seq2SeqConfig))
    for file in path.iterdir():
        kind.from_file(file)


# ---- other models ------------------------------------------------------------------------------------------------


def _make_classifier(folder: Path, **settings: object) -> None:
    texts = [f"a {'good' if i % 2 else 'bad'} film {i % 3}" for i in range(9)]
    model = TextClassifier(dim=2, epochs=1, threads=1, buckets=30, word_ngrams=2, min_n=2, max_n=3, **settings)
    model.fit(texts, [str(i % 3) for i in range(9)]).save(folder / "v")


def _read_classifier(path: Path, rng: random.Random) -> None:
    model = TextClassifier.load(path, threads=1)
    model.predict(["a good film"], k=2)


def _mend_classifier(files: Files) -> None:
    _set_metadata(files, "crc32", {name: zlib.crc32(files[name]) for name in ("vocab.tsv", "labels.tsv")})


def _make_translation(folder: Path) -> None:
    config = Seq2SeqConfig(tokenizer="word", embed_size=2, hidden_size=2, num_layers=1, out="x")
    vocab = Vocabulary(["<PAD>", "<SOS>", "<EOS>", "<UNK>", *WORDS], [0] * 4 + COUNTS.tolist(), 4)
    subwords = w2v_ext.seq2seq.tokenizers.train_tokenizer("bpe", ["the film", "a film"], subword_vocab=9)
    text = TextFiles(Tokenizer("word"), subwords, vocab, vocab)
    (folder / "v").mkdir()
    save_text(folder / "v", config, text)
    save_weights(folder / "v" / MODEL, build_model(config, len(vocab), len(vocab)), text)


def _read_translation(path: Path, rng: random.Random) -> None:
    if rng.random() < 0.2:
        _, _, text = load_translation(path)
    else:
        _, text = load_text(path)
        load_tensors(path / MODEL)
    text.src_tokenizer.encode("the film"), text.tgt_tokenizer.decode(text.tgt_tokenizer.encode("a film"))


def _make_documents(folder: Path) -> None:
    (folder / "t").write_text(TEXT)
    build_index(folder / "t", w2v_ext.KeyedVectors(WORDS, _vectors(), counts=COUNTS), folder / "v")


def _read_documents(path: Path, rng: random.Random) -> None:
    index = DocumentIndex(path)
    for document in range(min(3, len(index))):
        index.text(document)
    if rng.random() < 0.1:
        index.search("the film", k=2)


@cache
def _known_vectors() -> w2v_ext.KeyedVectors:
    return w2v_ext.KeyedVectors(WORDS, _vectors())


def _read_approximate(path: Path, rng: random.Random) -> None:
    index = ApproximateIndex.load(path, _known_vectors(), threads=1)
    index.most_similar(_known_vectors()["the"], 2)


ROW_FORMATS = ("word2vec-text", "word2vec-binary", "glove", "fasttext-vec")
TARGETS: dict[str, Target] = {
    **{name: Target(_saved_as(name), partial(_read_vectors, name), weight=2) for name in ROW_FORMATS},
    **{
        f"{name}.{suffix}": Target(_saved_as(name, suffix), partial(_read_vectors, name), weight=0.5)
        for name, suffix in (("word2vec-text", "gz"), ("glove", "xz"), ("word2vec-binary", "zst"))
    },
    "fasttext-bin": Target(
        lambda folder: _fasttext(folder).save_fasttext_bin(folder / "v"), _read_fasttext_bin, weight=2
    ),
    "safetensors": Target(_saved_as("safetensors"), partial(_read_vectors, "safetensors"), weight=2),
    **{
        name: Target(_saved_as(name), partial(_read_compressed, name))
        for name in ("int8", "int8-symmetric", "pq", "low-rank")
    },
    "model": Target(_saved_as("model"), partial(_read_vectors, "model"), mend=_mend_model, weight=2),
    "subword-model": Target(lambda folder: _fasttext(folder).save(folder / "v"), _read_subword_model, mend=_mend_model),
    "static-embedding": Target(_saved_as("static-embedding"), partial(_read_vectors, "static-embedding")),
    "projector": Target(_saved_as("projector"), partial(_read_vectors, "projector")),
    "counts": Target(
        lambda folder: w2v_ext.formats.write_counts(folder / "v", WORDS, COUNTS),
        lambda path, rng: read_counts(path, errors=rng.choice(("strict", "replace"))),
    ),
    "vocabulary": Target(_make_vocabulary, _read_vocabulary, (ValueError,)),
    "text": Target(partial(_packed, pack=bytes), _read_text, (CorpusError, ValueError), weight=0.3),
    "text.gz": Target(
        partial(_packed, pack=partial(gzip.compress, mtime=0)), _read_text, (CorpusError, ValueError), weight=0.1
    ),
    "chunks.gz": Target(partial(_packed, pack=partial(gzip.compress, mtime=0)), _read_chunks),
    "chunks.xz": Target(partial(_packed, pack=lzma.compress), _read_chunks),
    "chunks.zst": Target(partial(_packed, pack=zstandard.compress), _read_chunks),
    "corpus": Target(_make_corpus, _read_corpus, (CorpusError,), mend=_mend_corpus, weight=2),
    "checkpoint": Target(_make_checkpoint, _read_checkpoint, (ValueError,)),
    "config.json": Target(partial(_make_settings, suffix="json"), _read_settings, (ValueError,), weight=0.5),
    "config.yaml": Target(partial(_make_settings, suffix="yaml"), _read_settings, (ValueError,), weight=0.1),
    "classifier": Target(_make_classifier, _read_classifier, (FormatError, ValueError), mend=_mend_classifier),
    "classifier-hs": Target(
        partial(_make_classifier, loss="hs"), _read_classifier, (FormatError, ValueError), _mend_classifier, 0.3
    ),
    "translation": Target(_make_translation, _read_translation, (FormatError, FileNotFoundError), weight=0.5),
    "documents": Target(_make_documents, _read_documents),
    "approximate": Target(
        lambda folder: ApproximateIndex(_known_vectors(), threads=1).save(folder / "v"), _read_approximate, weight=0.5
    ),
}
assert set(FORMATS) <= {name.partition(".")[0] for name in TARGETS}


class Workplace:
    """A directory in which a target's files lie, damaged one after another."""

    def __init__(self, name: str, folder: Path) -> None:
        self.target, self.path = TARGETS[name], folder / "v"
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.target.make(folder)
        self.originals = files_below(self.path)
        self._there = dict(self.originals)

    def put(self, files: Files) -> None:
        """Make the files on disk these."""
        for name in self._there.keys() - files.keys():
            (self.path / name).unlink()
        for name, data in files.items():
            if self._there.get(name) != data:
                (self.path / name if name else self.path).write_bytes(data)
        self._there = files

    def read(self, rng: random.Random) -> str | None:
        """Read them: None, or what the reader said against them. What it may not raise comes through."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.target.read(self.path, rng)
            except self.target.refuses as error:
                return f"{type(error).__name__}: {error}"
        return None
