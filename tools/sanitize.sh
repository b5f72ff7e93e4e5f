#!/usr/bin/env bash
# The native code under sanitizers. Builds kernels and text module in a copy of the project outside the tree, which is
# kept for the next time, and runs the tests that reach into them. Needs g++ with its sanitizers' libraries, and an
# environment in which the tests run; PyTorch uses ccache where it is there. Fails if anything is found.
#
#   bash tools/sanitize.sh           AddressSanitizer and UndefinedBehaviorSanitizer
#   bash tools/sanitize.sh thread    ThreadSanitizer; the races that Hogwild intends are listed in tools/tsan.supp
#
#   PYTHON     the python of that environment (default: python)
#   BUILD_DIR  where the copies are (default: w2v_ext-sanitize in the directory for temporary files)
#   TESTS      which tests (default: those of kernels, text and formats, with address; Hogwild's, with thread)
set -euo pipefail
cd "$(dirname "$0")/.."
project=$PWD
python="${PYTHON:-python}"
kind="${1:-address}"
copy="${BUILD_DIR:-${TMPDIR:-/tmp}/w2v_ext-sanitize}/$kind"
mkdir -p "$copy"
# Unchanged files keep their times, so that only what has changed is compiled again.
git ls-files -z csrc w2v_ext tests setup.py pyproject.toml README.md LICENSE | while IFS= read -r -d '' file; do
    [ -e "$file" ] || continue
    cmp -s "$file" "$copy/$file" || { mkdir -p "$copy/$(dirname "$file")" && cp "$file" "$copy/$file"; }
done
cd "$copy"
case "$kind" in
    address) sanitizers=address,undefined libraries="libasan.so libubsan.so" ;;
    thread) sanitizers=thread libraries="libtsan.so" ;;
    *) echo "sanitize: expected address or thread, got $kind" >&2 && exit 2 ;;
esac
W2V_EXT_SANITIZE=$sanitizers W2V_EXT_CUDA=0 "$python" setup.py -q build_ext --inplace

# Python itself is not instrumented: the libraries go first, and what Python never frees is no leak.
preload=
for library in $libraries libstdc++.so; do preload+="$(g++ -print-file-name="$library"):"; done
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:detect_stack_use_after_return=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
if [ "$kind" = thread ]; then
    export TSAN_OPTIONS="suppressions=$project/tools/tsan.supp:halt_on_error=0:exitcode=66:second_deadlock_stack=1:${TSAN_OPTIONS:-}"
    tests="${TESTS:-tests/test_hogwild_threads.py}"
else
    tests="${TESTS:-tests/test_loss.py tests/test_step.py tests/test_sgns_kernel.py tests/test_cbow.py
        tests/test_subword_kernel.py tests/test_softmax.py tests/test_glove.py tests/test_classify_kernel.py
        tests/test_optim.py tests/test_exchange.py tests/test_tokenise.py tests/test_corpus.py tests/test_text_errors.py tests/test_phrases.py
        tests/test_formats.py tests/test_formats_more.py tests/test_fasttext_bin.py tests/test_loading.py
        tests/test_fuzz.py}"
    # The fuzzer's own crashes and limits of memory, in Python: AddressSanitizer makes other ones of them.
    tests+=" --deselect=tests/test_fuzz.py::test_the_driver_finds_errors_crashes_and_allocations"
fi
# Reports go to stderr as they come (pytest would show those of failed tests only).
# The addresses of a process are not drawn at random: ThreadSanitizer of gcc 12 cannot have them anywhere.
# shellcheck disable=SC2086
setarch "$(uname -m)" -R env LD_PRELOAD="$preload" "$python" -m pytest -q -x -p no:cacheprovider -p no:xdist --capture=sys $tests
