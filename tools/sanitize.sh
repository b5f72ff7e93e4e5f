#!/usr/bin/env bash
# Build the CPU kernels and the text module with AddressSanitizer and UndefinedBehaviorSanitizer, in a copy of the
# project, and run the tests that reach into them. Needs g++ with its sanitizers' libraries, and an environment in which
# the tests run. Fails at the first finding.
#
#   PYTHON   the python of that environment (default: python)
#   TESTS    which tests (default: those of kernels, text and formats)
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python}"
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z csrc w2v_ext tests setup.py pyproject.toml README.md | xargs -0 cp --parents -t "$copy"
cd "$copy"
W2V_EXT_SANITIZE=address,undefined W2V_EXT_CUDA=0 "$python" setup.py -q build_ext --inplace
tests="${TESTS:-tests/test_loss.py tests/test_step.py tests/test_sgns_kernel.py tests/test_tokenise.py
    tests/test_corpus.py tests/test_text_errors.py tests/test_formats.py tests/test_formats_more.py tests/test_loading.py}"
# Python itself is not instrumented: the library goes first, and what Python never frees is no leak.
export LD_PRELOAD="$(g++ -print-file-name=libasan.so):$(g++ -print-file-name=libubsan.so):$(g++ -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
"$python" -m pytest -q -p no:cacheprovider $tests
