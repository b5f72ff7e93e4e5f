#!/usr/bin/env bash
# Compile every csrc/cuda/*.cu for sm_80 and sm_90 and report what each kernel takes. Needs nvcc, but no GPU and no CUDA
# build of PyTorch: only PyTorch's headers. The compiler's own report goes to build/cuda_resources.txt. Fails where a file
# does not compile, where there is a warning, and where a kernel spills registers.
#
#   PYTHON     the python whose PyTorch gives the headers (default: python)
#   CUDA_HOME  the CUDA toolkit (default: /usr/local/cuda)
set -euo pipefail
cd "$(dirname "$0")/.."

nvcc="${CUDA_HOME:-/usr/local/cuda}/bin/nvcc"
if [[ ! -x $nvcc ]]; then
  echo "compile_cuda: no nvcc at $nvcc (set CUDA_HOME to the CUDA toolkit's folder); nothing was compiled"
  exit 0
fi
include="$("${PYTHON:-python}" -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "include"))')"

flags=(
  -std=c++20 -O3 -DUSE_CUDA -DTORCH_TARGET_VERSION=0x020a000000000000  # as setup.py
  -Icsrc -isystem "$include" -isystem "$include/torch/csrc/api/include"
  -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90
  -Werror all-warnings -Xcompiler -fPIC,-Wall,-Wextra,-Werror -Xptxas -v
)
report=build/cuda_resources.txt
rm -rf build/cuda
mkdir -p build/cuda

compile() {  # SOURCE: compiles it, into a report of its own
  local name
  name="build/cuda/$(basename "$1" .cu)"
  echo "source $1" > "$name.txt"
  "$nvcc" "${flags[@]}" -c "$1" -o "$name.o" >> "$name.txt" 2>&1 || touch "$name.failed"
}

for source in csrc/cuda/*.cu; do  # as many at once as there are processors
  while (($(jobs -pr | wc -l) >= $(nproc))); do wait -n; done
  compile "$source" &
done
wait
cat build/cuda/*.txt > "$report"
for failed in build/cuda/*.failed; do
  [[ -e $failed ]] || continue
  grep -v -e "ptxas info" -e "bytes stack frame" "${failed%.failed}.txt"
  echo "compile_cuda: csrc/cuda/$(basename "$failed" .failed).cu does not compile"
  exit 1
done

# One line per kernel; the mangled name is made readable, and the namespaces of all kernels are left out.
awk '
  /^source /                  { file = $2; sub(".*/", "", file) }
  /Compiling entry function/  { split($0, quoted, "\047"); name = quoted[2]; arch = quoted[4] }
  /bytes spill stores/        { stack = $1; spilled = $5 + $9 }
  /Used [0-9]+ registers/     {
    for (i = 1; i < NF; ++i) if ($i == "Used") registers = $(i + 1)
    printf "%s %s %3d registers, %d bytes spilled, %d bytes of stack: %s\n", file, arch, registers, spilled, stack, name
    kernels += 1
    spills += spilled > 0
  }
  END {
    if (kernels == 0) { print "compile_cuda: no kernel in the report"; exit 1 }
    if (spills) { print "compile_cuda: " spills " of " kernels " kernels spill registers"; exit 1 }
    print "compile_cuda: " kernels " kernels compiled, none spills"
  }
' "$report" | { command -v c++filt > /dev/null && c++filt || cat; } | sed -E 's/: (void )?w2v::.*::([a-z_]+)<(c10::)?([A-Za-z0-9]+)>\(.*$/: \2<\4>/'
