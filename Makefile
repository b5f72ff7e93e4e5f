# `make check` does what CI does, in the environment at hand.
PYTHON ?= python

.PHONY: check lint format test cuda bench

check: lint cuda test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | grep -v unicode_tables | xargs clang-format --dry-run -Werror

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | grep -v unicode_tables | xargs clang-format -i

cuda:
	PYTHON="$(PYTHON)" bash tools/compile_cuda.sh

test:
	$(PYTHON) -m pytest

bench:
	$(PYTHON) -m pytest bench --benchmark-only
