"""Build the compiled parts of w2v_ext; everything else about the package stands in pyproject.toml.

Environment switches
    W2V_EXT_CUDA=1|0       build the CUDA kernels, or leave them out (default: built when PyTorch has CUDA and nvcc is
                           found)
    TORCH_CUDA_ARCH_LIST   GPU architectures (default: 8.0;8.6;8.9;9.0;10.0+PTX, as far as nvcc knows them)
    MAX_JOBS               compiler processes at once
    W2V_EXT_TEXT_ONLY=1    build the text module alone, without torch; the kernels lie ready in w2v_ext/ (see
                           tools/build_wheels.sh)
    W2V_EXT_SANITIZE       sanitizers to compile in, say address,undefined (see tools/sanitize.sh)
"""

import os
import re
import subprocess
from glob import glob
from pathlib import Path

from setuptools import Extension, setup

TEXT_ONLY = os.environ.get("W2V_EXT_TEXT_ONLY") == "1"
if not TEXT_ONLY:
    import torch
    from torch.utils import cpp_extension

TORCH_2_10 = "0x020a000000000000"  # the oldest release whose stable ABI the kernels use
STANDARD = "-std=c++20"  # PyTorch 2.11 would ask for 17
CXX_FLAGS = ["-O3", "-g0", STANDARD, "-fno-math-errno", "-fvisibility=hidden"]
CXX_FLAGS += [f"-DTORCH_TARGET_VERSION={TORCH_2_10}"]
SANITIZE = os.environ.get("W2V_EXT_SANITIZE", "")
SANITIZER_FLAGS = [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"] if SANITIZE else []
SANITIZER_FLAGS += ["-g1", "-O1"] if SANITIZE else []
if "address" in SANITIZE:
    # Checks as calls, and at every access only AddressSanitizer's: minutes to compile instead of an hour.
    SANITIZER_FLAGS += ["--param=asan-instrumentation-with-call-threshold=0"]
    SANITIZER_FLAGS += ["-fno-sanitize=null,alignment,object-size,pointer-overflow,vptr"]


def sources(folder: str, *patterns: str) -> list[str]:
    return sorted(path for pattern in patterns for path in glob(f"csrc/{folder}/{pattern}"))


def pybind11_headers() -> str:
    try:
        import pybind11
    except ModuleNotFoundError:  # PyTorch brings the headers along
        return next(path for path in cpp_extension.include_paths() if Path(path, "pybind11").is_dir())
    return pybind11.get_include()


def nvcc_path() -> Path | None:
    home = os.environ.get("CUDA_HOME") or cpp_extension.CUDA_HOME
    nvcc = Path(home) / "bin" / "nvcc" if home else None
    return nvcc if nvcc and nvcc.exists() else None


def want_cuda() -> bool:
    switch = os.environ.get("W2V_EXT_CUDA", "")
    if switch not in ("", "0", "1"):
        raise SystemExit(f"W2V_EXT_CUDA: expected 0 or 1, got {switch!r}")
    if switch == "1" and nvcc_path() is None:
        raise SystemExit("W2V_EXT_CUDA=1, but no nvcc was found: set CUDA_HOME to the CUDA toolkit's folder")
    if switch == "1" and torch.version.cuda is None:
        raise SystemExit("W2V_EXT_CUDA=1, but this PyTorch is a CPU build, which has no CUDA libraries to link with")
    return switch == "1" or (switch == "" and torch.version.cuda is not None and nvcc_path() is not None)


def default_arch_list(nvcc: Path) -> str:
    known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    numbers = {int(n) for n in re.findall(r"compute_(\d+)", known)}
    wanted = [cc for cc in (80, 86, 89, 90, 100) if cc in numbers]
    return ";".join(f"{cc // 10}.{cc % 10}" for cc in wanted) + "+PTX"


extensions = [
    Extension(  # knows nothing of torch, and is tied to the Python version by pybind11
        "w2v_ext._text",
        sources("text", "*.cpp"),
        include_dirs=[pybind11_headers()],
        extra_compile_args=["-O3", "-g0", "-fvisibility=hidden", STANDARD, *SANITIZER_FLAGS],
        extra_link_args=SANITIZER_FLAGS,
        language="c++",
    ),
]
if not TEXT_ONLY:
    extensions.append(
        cpp_extension.CppExtension(
            "w2v_ext._kernels",
            ["csrc/ops.cpp", *sources("cpu", "*.cpp")],
            include_dirs=[os.path.abspath("csrc")],
            extra_compile_args={"cxx": CXX_FLAGS + SANITIZER_FLAGS},
            extra_link_args=SANITIZER_FLAGS,
            py_limited_api=True,
        )
    )
if not TEXT_ONLY and want_cuda():
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", default_arch_list(nvcc_path()))
    extensions.append(
        cpp_extension.CUDAExtension(
            "w2v_ext._kernels_cuda",
            sources("cuda", "*.cu"),
            include_dirs=[os.path.abspath("csrc")],
            extra_compile_args={
                "cxx": [*CXX_FLAGS, "-DUSE_CUDA"],
                "nvcc": ["-O3", STANDARD, "-Xcompiler=-fvisibility=hidden", CXX_FLAGS[-1], "-DUSE_CUDA"],
            },
            py_limited_api=True,
        )
    )

setup(
    ext_modules=extensions,
    cmdclass={} if TEXT_ONLY else {"build_ext": cpp_extension.BuildExtension},
)
