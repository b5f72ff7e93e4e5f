"""Any bytes at all: every reader gives the vectors that are there, or a FormatError, and nothing else."""

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_fasttext_bin import small_model

from w2v_ext.files import FormatError
from w2v_ext.formats import FORMATS, load_vectors, save_vectors

WORDS = ["the", "naïve", "词"]
COUNTS = np.array([9, 4, 1])


def read_quietly(path, name=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_vectors(path, name, **options)


@st.composite
def mutations(draw):
    return draw(
        st.lists(
            st.tuples(st.sampled_from("flip cut insert copy".split()), st.integers(0, 1 << 16), st.binary(max_size=9)),
            min_size=1,
            max_size=4,
        )
    )


def mutate(data, changes):
    for kind, at, extra in changes:
        at %= len(data) + 1
        if kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + extra + data[at:]
        elif kind == "copy":
            data = data[:at] + data[at // 2 :]
        else:
            data = data[:at] + extra + data[at + len(extra) :]
    return data


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """The bytes of a small file in every format; directories as {file: bytes}."""
    folder = tmp_path_factory.mktemp("originals")
    found = {"fasttext-bin": {"": small_model()}}
    for name in (name for name in FORMATS if FORMATS[name].write):
        save_vectors(folder / name, WORDS, np.array([[1, 2], [3, 4], [5, 0.25]]), COUNTS, name)
        files = [folder / name] if (folder / name).is_file() else sorted((folder / name).iterdir())
        found[name] = {"" if file == folder / name else file.name: file.read_bytes() for file in files}
    return found


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("name", list(FORMATS))
def test_damaged_bytes_are_read_or_refused(tmp_path_factory, originals, name, skip):
    """Whatever is in a file: the vectors it holds, or a FormatError. Nothing else, and no hang."""
    folder = tmp_path_factory.mktemp("fuzz")
    options = {"bad_rows": "skip", "errors": "replace"} if skip else {}

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(which=st.integers(0, 9), changes=mutations(), sniffed=st.booleans())
    def run(which, changes, sniffed):
        files = originals[name]
        victim = sorted(files)[which % len(files)]
        for file, data in files.items():
            path = folder / "v" / file if file else folder / "f"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(mutate(data, changes) if file == victim else data)
        path = folder / "f" if "" in files else folder / "v"
        try:
            table = read_quietly(path, None if sniffed else name, threads=1, **options)
        except FormatError as error:
            assert str(folder) in str(error)
        else:
            assert len(table.words) == len(table.vectors) == len(set(table.words))
            assert np.isfinite(table.vectors).all()

    run()
