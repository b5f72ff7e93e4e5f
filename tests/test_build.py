"""What the compiled parts may and may not depend on."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import w2v_ext

PACKAGE = Path(w2v_ext.__file__).parent
ROOT = Path(__file__).resolve().parents[1]


def undefined_symbols(pattern: str) -> str:
    (built,) = PACKAGE.glob(pattern)
    if shutil.which("nm") is None:
        pytest.skip("needs nm from binutils")
    done = subprocess.run(["nm", "-DC", "--undefined-only", built], capture_output=True, text=True, check=True)
    assert done.stdout
    return done.stdout


def test_kernels_use_only_the_stable_abi():
    symbols = undefined_symbols("_kernels.abi3.so")
    assert "aoti_torch_" in symbols  # the stable C interface is there
    for unstable in ("at::", "c10::", "torch::", "caffe2::"):
        assert unstable not in symbols, f"the kernels refer to {unstable} symbols, which differ between releases"


def test_kernels_are_tied_to_no_python_version():
    assert " Py" not in undefined_symbols("_kernels.abi3.so")


def test_text_module_knows_nothing_of_torch():
    symbols = undefined_symbols("_text.*.so")
    assert "PyInit" not in symbols
    assert "torch" not in symbols
    assert "c10::" not in symbols


def test_missing_kernels_are_a_helpful_error(tmp_path):
    copy = tmp_path / "w2v_ext"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("_kernels*", "__pycache__"))
    done = subprocess.run([sys.executable, "-c", "import w2v_ext"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "ImportError: w2v_ext: the compiled kernels are missing from" in done.stderr
    assert "pip install -e ." in done.stderr


def test_importing_needs_no_optional_package_and_no_network():
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('network at import')\n"
        "socket.socket.connect = refuse\n"
        "names = 'gensim scipy matplotlib sklearn tensorboard jieba safetensors yaml tqdm tyro zstandard'\n"
        "for name in names.split(): sys.modules[name] = None\n"
        "import w2v_ext, w2v_ext.train\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("missing", "call", "message"),
    [
        ("tyro", "w2v_ext.train.parse_arguments([])", "tyro is needed for the command line .*: pip install tyro"),
        (
            "yaml",
            "w2v_ext.TrainConfig.from_file('a.yaml')",
            "PyYAML is needed to read a YAML file .*pip install PyYAML",
        ),
        ("safetensors", "w2v_ext.KeyedVectors.load('.')", "safetensors is needed to read a model: pip install"),
        ("zstandard", "w2v_ext.prepare_corpus('a.zst')", "zstandard is needed to read .zst files: pip install"),
    ],
)
def test_a_missing_package_is_named(tmp_path, missing, call, message):
    (tmp_path / "a.yaml").write_text("dim: 3\n")
    (tmp_path / "a.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    (tmp_path / "model.safetensors").write_bytes(b"")
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
        f"sys.modules[{missing!r}] = None\n"
        f"import w2v_ext, w2v_ext.train\n{call}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert re.search(f"ImportError: {message}", done.stderr), done.stderr


def test_the_sdist_holds_all_that_the_build_needs(monkeypatch):
    egg_info = pytest.importorskip("setuptools.command.egg_info")
    monkeypatch.chdir(ROOT)
    packed = egg_info.FileList()
    for line in Path("MANIFEST.in").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            packed.process_template_line(line)
    wanted = {str(path) for path in Path("csrc").rglob("*") if path.is_file()}
    assert wanted
    assert wanted <= set(packed.files), f"MANIFEST.in leaves out {sorted(wanted - set(packed.files))}"


def test_the_wheel_holds_every_package_and_its_data():
    tomllib = pytest.importorskip("tomllib")
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent for path in (ROOT / "w2v_ext").rglob("*.py")}
    assert set(setuptools["packages"]) == {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    data = {path.name for path in (ROOT / "w2v_ext").iterdir() if path.is_file()}
    data = {name for name in data if not name.endswith((".py", ".so"))}
    assert set(setuptools["package-data"]["w2v_ext"]) == data | {"_kernels.abi3.so"}
