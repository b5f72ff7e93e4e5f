"""One loader for every format, gensim's arguments for word2vec files, and what `import w2v_ext` brings."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from forks import run_forks

import w2v_ext
from w2v_ext import KeyedVectors, evaluate, formats, search
from w2v_ext.files import FormatError

WORDS = ["the", "café", "词语", "x"]
VECTORS = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
COUNTS = [9, 7, 7, 1]
LOSSY = ("int8", "int8-symmetric", "pq", "low-rank")
WRITTEN = [name for name, one in formats.FORMATS.items() if one.write]


@pytest.mark.parametrize("name", WRITTEN)
def test_load_reads_every_format(tmp_path, name):
    path = tmp_path / "vectors.of.any.name"
    formats.save_vectors(path, WORDS, VECTORS, COUNTS, name)
    kv = KeyedVectors.load(path)
    assert kv.index_to_key == WORDS
    if name in LOSSY:
        assert np.abs(kv.vectors - VECTORS).max() < 3
    else:
        assert kv.vectors.tobytes() == VECTORS.tobytes()
    assert kv.counts is None or kv.counts.tolist() == COUNTS
    assert KeyedVectors.load(path, name, limit=2).index_to_key == WORDS[:2]


@pytest.mark.parametrize("name", ["glove", "safetensors", "static-embedding", "int8"])
def test_commands_read_every_format(tmp_path, capsys, name):
    path = tmp_path / "vectors"
    formats.save_vectors(path, WORDS, VECTORS, COUNTS, name)
    (tmp_path / "pairs").write_text("the\tcafé\t3\nthe\tx\t1\n词语\tx\t2\n", encoding="utf-8")
    assert evaluate.main([str(path), "--pairs", str(tmp_path / "pairs")]) == 0
    (tmp_path / "documents").write_text("the café\nx 词语\n", encoding="utf-8")
    index = str(tmp_path / "index")
    command = ["index", "--vectors", str(path), "--documents", str(tmp_path / "documents"), "--out", index]
    assert search.main(command) == 0
    out, err = capsys.readouterr()
    assert "4 words, dim 8" in out and "2 documents" in out and err == ""


def test_no_words_to_work_with(tmp_path, capsys):
    (tmp_path / "none.txt").write_text("0 3\n")
    (tmp_path / "pairs").write_text("a\tb\t1\n")
    assert len(KeyedVectors.load(tmp_path / "none.txt")) == 0
    assert evaluate.main([str(tmp_path / "none.txt"), "--pairs", str(tmp_path / "pairs")]) == 2
    assert capsys.readouterr().err == f"error: vectors: expected at least one word, {tmp_path / 'none.txt'} has none\n"


# ---- gensim's arguments ------------------------------------------------------------------------------------------


@pytest.fixture
def gensim_models():
    return pytest.importorskip("gensim.models", reason="compares with gensim where it is installed")


SAVE = [
    {},
    {"binary": True},
    {"write_header": False},
    {"prefix": "en:"},
    {"fvocab": "counts"},
    {"fvocab": "counts", "prefix": "en:", "binary": True},
    {"sort_attr": "weight", "fvocab": "counts"},
    {"sort_attr": "absent"},
]


@pytest.mark.parametrize("arguments", SAVE, ids=str)
def test_saves_as_gensim(tmp_path, gensim_models, arguments):
    ours, theirs = KeyedVectors(WORDS, VECTORS, [7, 9, 7, 1]), gensim_models.KeyedVectors(8)
    theirs.add_vectors(WORDS, VECTORS)
    for word, count, weight in zip(WORDS, [7, 9, 7, 1], [2, 4, 1, 3], strict=True):
        theirs.set_vecattr(word, "count", count)
        for kv in (ours, theirs):
            kv.set_vecattr(word, "weight", weight)
    files = {}
    for name, kv in (("ours", ours), ("theirs", theirs)):
        (tmp_path / name).mkdir()
        placed = {**arguments, **({"fvocab": str(tmp_path / name / "counts")} if "fvocab" in arguments else {})}
        kv.save_word2vec_format(str(tmp_path / name / "v"), **placed)
        loaded = {k: v for k, v in placed.items() if k in ("binary", "fvocab")}
        header = {"no_header": True} if arguments.get("write_header") is False else {}
        read = KeyedVectors.load_word2vec_format(str(tmp_path / name / "v"), **loaded, **header)
        assert read.vectors.tobytes() == kv[[word.removeprefix("en:") for word in read.index_to_key]].tobytes()
        counts = (tmp_path / name / "counts").read_bytes() if "fvocab" in arguments else None
        files[name] = (read.index_to_key, counts, None if read.counts is None else read.counts.tolist())
    assert files["ours"] == files["theirs"]


def test_arguments_stand_where_gensims_do(tmp_path):
    kv = KeyedVectors(WORDS, VECTORS, COUNTS)
    kv.save_word2vec_format(tmp_path / "v", tmp_path / "counts", True)
    assert (tmp_path / "counts").read_text(encoding="utf-8") == "the 9\ncafé 7\n词语 7\nx 1\n"
    again = KeyedVectors.load_word2vec_format(tmp_path / "v", tmp_path / "counts", True, "utf8", "strict", 3)
    assert again.index_to_key == WORDS[:3] and again.counts.tolist() == COUNTS[:3]
    (tmp_path / "counts").write_text("the 3\n")
    assert KeyedVectors.load_word2vec_format(tmp_path / "v", tmp_path / "counts", True).counts.tolist() == [3, 0, 0, 0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"the 3\nx\n", "counts: line 2: expected a word and its count, got 'x'"),
        (b"the three\n", "counts: line 1: expected a word and its count, got 'the three'"),
        (b"the 3\n\xff 3\n", "counts: line 2: not utf-8"),
    ],
)
def test_damaged_counts(tmp_path, data, message):
    (tmp_path / "counts").write_bytes(data)
    with pytest.raises(FormatError, match=message):
        formats.read_counts(tmp_path / "counts")


def test_counts_need_counts(tmp_path):
    with pytest.raises(ValueError, match="fvocab: expected the words to have the attribute 'count'"):
        KeyedVectors(WORDS, VECTORS).save_word2vec_format(tmp_path / "v", fvocab=tmp_path / "counts")
    assert not list(tmp_path.iterdir())


# ---- the package -------------------------------------------------------------------------------------------------


def test_every_name_is_there():
    assert all(getattr(w2v_ext, name) is not None for name in w2v_ext.__all__)
    assert set(w2v_ext.__all__) <= set(dir(w2v_ext))
    with pytest.raises(AttributeError, match="module 'w2v_ext' has no attribute 'nothing'"):
        w2v_ext.nothing  # noqa: B018


def test_import_brings_no_heavy_packages():
    code = "import sys, w2v_ext; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"matplotlib", "sklearn", "umap", "tensorboard", "tyro", "usearch", "ot", "gensim", "jieba"}
    assert not heavy & set(loaded)
    assert "w2v_ext.keyedvectors" in loaded and "w2v_ext.formats" not in loaded and "w2v_ext.plots" not in loaded


def test_translation_is_imported_without_what_only_its_files_need():
    """As on the GPU machines of `bench/gpu_suite.sh`."""
    code = "import sys; sys.modules |= dict.fromkeys(('yaml', 'safetensors', 'tqdm', 'tokenizers', 'sacrebleu'))"
    code += "; import w2v_ext.seq2seq as s; print(s.Seq2SeqConfig().hidden_size)"
    assert run_forks(code, [{}]) == ["512\n"]


def imported(name):
    """The modules of the package that a module imports, at the top or within functions, but for TYPE_CHECKING."""
    root = Path(w2v_ext.__file__).parent
    path = root.joinpath(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.exists():
        return set()  # compiled
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in skipped:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            found |= {".".join(base)} if node.module else {".".join([*base, alias.name]) for alias in node.names}
    return found


def reached(name):
    seen, ahead = set(), {name}
    while ahead:
        seen |= ahead
        ahead = set().union(*map(imported, ahead)) - seen
    return seen


@pytest.mark.parametrize(
    ("name", "forbidden"),
    [
        ("ops", {"corpus", "vocab", "sources", "_text", "keyedvectors", "trainer"}),
        ("corpus", {"models", "ops", "trainer", "keyedvectors", "formats"}),
        ("keyedvectors", {"trainer", "train", "models", "ops", "monitor"}),
        ("formats", {"trainer", "train", "models", "ops"}),
    ],
)
def test_arrows_point_one_way(name, forbidden):
    assert len(reached(name)) > 1
    assert not reached(name) & forbidden
