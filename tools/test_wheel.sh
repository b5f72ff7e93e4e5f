#!/usr/bin/env bash
# A wheel as a user has it: a new virtual environment outside the tree, PyTorch, the wheel with what it depends on, then
# `info`, an epoch on the built-in corpus, and tests of the kernels, the trainer and the text module. docs/versions.md
# says with which versions it was run. CUDA builds of PyTorch take 5 GB in the directory for temporary files meanwhile.
#
#   bash tools/test_wheel.sh python3.12 2.11.0 [FOLDER WITH THE WHEELS (default: dist)]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 torch=$2 dist=$(realpath "${3:-dist}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tests=(conftest instruction_sets test_sgns_kernel test_step test_trainer test_loss test_tokenise test_corpus test_info)
mkdir "$work/tests"
for test in "${tests[@]}"; do cp "tests/$test.py" "$work/tests"; done

"$python" -m venv "$work/venv"
cd "$work"
export PATH="$work/venv/bin:$PATH" W2V_EXT_CACHE="$work/cache" PIP_DISABLE_PIP_VERSION_CHECK=1
pip install -q "torch==$torch"
pip install -q --no-index --find-links "$dist" --no-deps --only-binary :all: w2v_ext
pip install -q w2v_ext pytest pytest-xdist hypothesis expecttest  # what the wheel depends on, and for the tests
python -m w2v_ext.info
python -m w2v_ext.train --epochs 1
python -m pytest -q -p no:cacheprovider -n 2 tests
