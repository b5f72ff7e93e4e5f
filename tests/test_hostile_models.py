"""Models are data: a hostile one can neither run code nor write outside the directory it lies in."""

import ast
import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import w2v_ext
from w2v_ext import model_files
from w2v_ext.approximate import ApproximateIndex
from w2v_ext.checkpoints import CHECKPOINT, save_checkpoint
from w2v_ext.classify import TextClassifier
from w2v_ext.corpus_files import Corpus
from w2v_ext.fasttext_vectors import FastTextVectors
from w2v_ext.files import FormatError, write_files
from w2v_ext.formats import FORMATS, load_vectors, save_vectors
from w2v_ext.search import DocumentIndex
from w2v_ext.train import main, make_writable

PACKAGE = Path(w2v_ext.__file__).parent


# ---- what the sources do not do ----------------------------------------------------------------------------------

FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
FORBIDDEN_CALLS = {
    "eval", "exec", "torch.load", "np.load", "numpy.load", "yaml.unsafe_load", "yaml.full_load", "os.system",
    "os.popen", "pickle.load", "pickle.loads", "torch.hub.load",
}  # fmt: skip


def name_of(node):
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_sources_open_no_pickle_and_run_no_text(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not FORBIDDEN_IMPORTS.intersection(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in FORBIDDEN_IMPORTS
        elif isinstance(node, ast.Call):
            assert name_of(node.func) not in FORBIDDEN_CALLS, f"{path}:{node.lineno}"
            assert not any(k.arg in ("allow_pickle", "shell", "trust_remote_code") for k in node.keywords)
            if name_of(node.func) == "yaml.load":
                loaders = [name_of(k.value) for k in node.keywords if k.arg == "Loader"]
                assert loaders in (["yaml.BaseLoader"], ["yaml.SafeLoader"]), f"{path}:{node.lineno}"


# ---- pickles in every place ----------------------------------------------------------------------------------------


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def disguises(mark):
    """A pickle as it is, as PyTorch writes it, as NumPy writes it, in a zip archive."""
    plain = pickle.dumps(Payload(mark))
    saved, array, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save(Payload(mark), saved)
    np.save(array, np.array([Payload(mark)], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("archive/data.pkl", plain)
    yaml = f"!!python/object/apply:os.mkdir ['{mark}']\n".encode()
    return [plain, saved.getvalue(), array.getvalue(), archive.getvalue(), yaml]


READERS = {
    **{name: lambda path, name=name: load_vectors(path, name) for name in FORMATS},
    "any format": load_vectors,
    "KeyedVectors": w2v_ext.KeyedVectors.load,
    "FastTextVectors": FastTextVectors.load,
    "classifier": TextClassifier.load,
    "translation": lambda path: __import__("w2v_ext.seq2seq").seq2seq.load_model(path),
    "settings": w2v_ext.TrainConfig.from_file,
    "corpus": Corpus.open,
    "documents": DocumentIndex,
    "text": lambda path: w2v_ext.prepare_corpus(path, w2v_ext.CorpusOptions(min_count=1, errors="replace")),
}
NAMES = (
    "model.safetensors", "vocab.tsv", "config.json", "labels.tsv", "tokenizer.json", "modules.json", "metadata.tsv",
    "tensors.tsv", "src.vocab.tsv", "tgt.vocab.tsv", "src.tokenizer.json", "tgt.tokenizer.json", "corpus.json",
    "ids.bin", "index.json", "words.safetensors", "documents.safetensors", "texts.bin", CHECKPOINT,
)  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_a_pickle_is_never_opened(tmp_path, reader):
    mark = tmp_path / "it ran"
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()  # opened, it does run
    mark.rmdir()
    for number, data in enumerate(disguises(mark)):
        file, folder = tmp_path / f"{number}.yaml", tmp_path / f"{number}"
        file.write_bytes(data)
        folder.mkdir()
        for name in NAMES:
            (folder / name).write_bytes(data)
        for path in (file, folder):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    READERS[reader](path)
                except (ValueError, OSError):
                    pass  # refused
            assert not mark.exists()


def test_an_index_of_neighbours_and_a_checkpoint_are_no_pickles_either(tmp_path):
    mark = tmp_path / "it ran"
    vectors = w2v_ext.KeyedVectors(["a", "b"], np.eye(2, dtype=np.float32))
    trainer = w2v_ext.Trainer(w2v_ext.corpus_from_sequences([[1, 2]]), w2v_ext.TrainConfig(device="cpu", min_count=1))
    for data in disguises(mark):
        for name in (CHECKPOINT, "index.usearch", "index.json"):
            (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError):
            trainer.load_checkpoint(tmp_path)
        with pytest.raises(FormatError):
            ApproximateIndex.load(tmp_path, vectors)
    assert not mark.exists()


# ---- writing outside -----------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path):
    """A file of somebody's, which must stay what it is, and a name at which no file may come up."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    yield tmp_path / "mine"
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["letter"]
    assert (tmp_path / "mine" / "letter").read_text() == "dear"


TABLE = (["a", "b"], np.eye(2, dtype=np.float32), [2, 1])
MODEL_FILES = ("model.safetensors", "vocab.tsv", "config.json", "metrics.json", "history.json", CHECKPOINT)


@pytest.mark.skipif(os.name != "posix", reason="needs links")
@pytest.mark.parametrize("target", ["letter", "new"])
@pytest.mark.parametrize("temporary", [False, True])
def test_links_in_a_directory_are_replaced_not_followed(tmp_path, outside, temporary, target):
    folder = tmp_path / "m"
    folder.mkdir()
    for name in (*MODEL_FILES, "checkpoint-1.safetensors"):
        name = f".{name}.{os.getpid()}.tmp" if temporary else name
        (folder / name).symlink_to(outside / target)
    (folder / f".writable.{os.getpid()}").symlink_to(outside / "new")
    make_writable(folder)
    for value in range(3):
        save_checkpoint(folder, {"x": torch.full((3,), float(value))}, {"number": value}, 2)
    model_files.save_model(folder, TABLE[1], None, TABLE[0], TABLE[2], {}, {}, {})
    assert not any((folder / name).is_symlink() for name in MODEL_FILES)
    assert model_files.load_model(folder).words == ["a", "b"]


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_a_link_in_place_of_a_file_is_replaced(tmp_path, outside):
    for name in ("v.txt", "v.bin", "v.safetensors", "v.txt.gz"):
        (tmp_path / name).symlink_to(outside / "letter")
        save_vectors(tmp_path / name, *TABLE)
        assert not (tmp_path / name).is_symlink()
    (tmp_path / f".x.{os.getpid()}.tmp").symlink_to(outside / "new")
    write_files({tmp_path / "x": lambda path: path.write_text("data")})
    assert (tmp_path / "x").read_text() == "data"


def test_the_settings_of_a_model_direct_no_files(tmp_path, outside, monkeypatch):
    """Going on from a model takes over its settings of training, not its paths."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t").write_text("a b c d\n" * 50)
    config = w2v_ext.TrainConfig(dim=2, min_count=1).to_dict()
    paths = {"out": str(outside), "tensorboard": str(outside / "tb"), "cache_dir": str(outside / "cache")}
    paths |= {"corpus": [str(outside / "letter")], "continue_from": str(outside), "intersect": str(outside / "letter")}
    model_files.save_model(tmp_path / "m", *(np.eye(2, dtype=np.float32),) * 2, ["a", "b"], [2, 1], {**config, **paths})
    flags = ["--continue-from", "m", "--corpus", "t", "--epochs", "1", "--out", "new", "--threads", "1"]
    assert main([*flags, "--sample", "0", "--device", "cpu"]) == 0
    assert (tmp_path / "new" / "model.safetensors").exists()


@pytest.mark.parametrize("place", ["../secret", "/etc", "a/../../secret", "link"])
def test_paths_out_of_a_directory_are_refused(tmp_path, place):
    secret, folder = tmp_path / "secret", tmp_path / "d"
    save_vectors(secret, *TABLE, "static-embedding")
    save_vectors(folder, *TABLE, "static-embedding")
    if place == "link":
        (folder / "link").symlink_to(secret)
    modules = [{"idx": 0, "name": "0", "path": place, "type": "sentence_transformers.models.StaticEmbedding"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(FormatError, match="leads out of the directory"):
        load_vectors(folder)


# ---- memory --------------------------------------------------------------------------------------------------------


def safetensors(tensors, metadata):
    """The bytes of a safetensors file of zeros."""
    header, place = {"__metadata__": {"w2v_ext": json.dumps(metadata)}}, 0
    for name, (kind, size, *shape) in tensors.items():
        end = place + size * int(np.prod(shape))
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(place)


def words(number):
    return {"words": ("U8", 1, number), "word_ends": ("I64", 8, number)}


@pytest.mark.parametrize(
    ("kind", "tensors"),
    [
        ("low-rank", {"left": ("F32", 4, 1 << 20, 1), "right": ("F32", 4, 1, 1 << 20)}),
        (
            "pq",
            {"codes": ("U8", 1, 1 << 20, 1), "centroids": ("F32", 4, 1, 1, 1 << 20), "norms": ("F32", 4, 1 << 20)},
        ),
    ],
)
def test_a_small_file_of_huge_vectors_is_refused_before_memory_is_taken(tmp_path, kind, tensors):
    data = safetensors({**tensors, **words(1 << 20)}, {"kind": kind, "version": 1, "dim": 1 << 20})
    (tmp_path / "v").write_bytes(data)
    with pytest.raises(MemoryError, match=r"v: 1048576 vectors of dim 1048576 take 4096.0 GiB, more than there is"):
        load_vectors(tmp_path / "v")


def test_parts_that_are_longer_than_the_vectors_are_refused(tmp_path):
    tensors = {"codes": ("U8", 1, 9, 1), "centroids": ("F32", 4, 1, 1, 999), "norms": ("F32", 4, 9)}
    (tmp_path / "v").write_bytes(safetensors({**tensors, **words(9)}, {"kind": "pq", "version": 1, "dim": 3}))
    with pytest.raises(FormatError, match="codes and centroids do not fit together"):
        load_vectors(tmp_path / "v")


def test_a_translation_model_is_measured_by_its_weights_not_its_settings(tmp_path):
    from fuzz.targets import _make_translation

    from w2v_ext.seq2seq import load_model

    _make_translation(tmp_path)
    config = json.loads((tmp_path / "v" / "config.json").read_text())
    for name, value in (("embed_size", 1 << 40), ("hidden_size", 1 << 40), ("num_layers", 1 << 40)):
        (tmp_path / "v" / "config.json").write_text(json.dumps({**config, name: value}))
        with pytest.raises(FormatError):
            load_model(tmp_path / "v")


def test_settings_nested_beyond_memory_are_refused(tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for one, other in zip("abcdefghij", "bcdefghijk", strict=True):
        lines.append(f"{other}: &{other} [{', '.join([f'*{one}'] * 10)}]")
    (tmp_path / "bomb.yaml").write_text("\n".join([*lines, "dim: *k"]))
    with pytest.raises(ValueError, match=r"bomb.yaml: b: expected a value or a list of values, got something nested"):
        w2v_ext.TrainConfig.from_file(tmp_path / "bomb.yaml")
    from w2v_ext.seq2seq import Seq2SeqConfig

    with pytest.raises(ValueError, match="got something nested"):
        Seq2SeqConfig.from_file(tmp_path / "bomb.yaml")


@pytest.mark.parametrize("suffix", ["gz", "xz", "zst"])
def test_vectors_that_unpack_without_end_are_refused(tmp_path, monkeypatch, suffix):
    import gzip
    import lzma

    import zstandard

    from w2v_ext.formats import streams

    monkeypatch.setattr(streams, "_MAX_UNPACKED", 1 << 22)
    pack = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.compress}[suffix]
    (tmp_path / f"v.txt.{suffix}").write_bytes(pack(b"1000000 1\n" + b"a 0\n" * (1 << 22)))
    with pytest.raises(FormatError, match=rf"v.txt.{suffix}: [\d,]+ bytes unpack to more than 4,194,304"):
        load_vectors(tmp_path / f"v.txt.{suffix}", bad_rows="skip")
    (tmp_path / "plain.txt").write_bytes(b"1000000 1\n" + b"a 0\n" * (1 << 21))  # what is there may be read
    with pytest.warns(UserWarning, match="999999 repeated words dropped, first 'a'|repeated words dropped"):
        load_vectors(tmp_path / "plain.txt", bad_rows="skip")


def test_a_window_beyond_the_bound_is_refused(tmp_path):
    import zstandard

    parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=False)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "v.zst").write_bytes(packer.compress(b"the 1 2\n") + packer.flush())
    with pytest.raises(FormatError, match="the compressed data are damaged or incomplete"):
        load_vectors(tmp_path / "v.zst")
    (tmp_path / "t.zst").write_bytes((tmp_path / "v.zst").read_bytes())
    options = w2v_ext.CorpusOptions(min_count=1)
    assert w2v_ext.prepare_corpus(tmp_path / "t.zst", options).num_tokens == 3  # large texts are packed so


def test_empty_frames_of_zstd_do_not_end_the_file(tmp_path):
    import zstandard

    packed = zstandard.compress(b"") + zstandard.compress(b"the 1 2\n") + zstandard.compress(b"")
    (tmp_path / "v.zst").write_bytes(packed + zstandard.compress(b"film 3 4\n"))
    assert load_vectors(tmp_path / "v.zst").words == ["the", "film"]
