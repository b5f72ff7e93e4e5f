# `make check` does what CI does, in the environment at hand.
PYTHON ?= python

.PHONY: check lint format test cuda bench docs sanitize sanitize-threads fuzz faults wheels

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
	$(PYTHON) -m pytest -n 2

# Everything under bench/ on the CPU, into bench/results/ and README.md's tables: an hour on an idle machine.
# CORPUS: a text; EVAL: the folder with EN-WS-353-ALL.txt, EN-SIMLEX-999.txt and questions-words.txt.
bench:
	$(PYTHON) bench/compare_trainers.py --corpus $(CORPUS) --eval-dir $(EVAL) --out bench/results/trainer-cpu.json
	$(PYTHON) bench/compare_trainers.py --corpus $(CORPUS) --eval-dir $(EVAL) --epochs 1 \
		--sides gensim fasttext avx2 w2v_ext --out bench/results/trainer-cpu-1-epoch.json
	$(PYTHON) bench/compare_trainers.py --corpus $(CORPUS) --eval-dir $(EVAL) --epochs 1 --dim 300 \
		--out bench/results/trainer-cpu-dim-300.json
	$(PYTHON) -m pytest bench/test_loss_bench.py --benchmark-only --benchmark-json=bench/results/loss-cpu.json
	$(PYTHON) bench/scaling.py --corpus $(CORPUS) --tokens 1000000000 --out bench/results/scaling-cpu.json
	$(PYTHON) bench/tables.py

# The API's pages from the docstrings, into build/api (needs the extra `docs`); warnings are errors.
PACKAGES = w2v_ext w2v_ext.classify w2v_ext.formats w2v_ext.methods w2v_ext.seq2seq
MODULES = $(subst /,.,$(basename $(shell git ls-files 'w2v_ext/*.py' | grep -v '/_')))
docs:
	rm -rf build/api
	$(PYTHON) -W error::UserWarning -W 'ignore:The module specification:UserWarning' \
		-W 'ignore:Error parsing type annotation:UserWarning' -m pdoc --docformat google --math -o build/api $(PACKAGES) $(MODULES)

# The native code under AddressSanitizer and UBSan, and under ThreadSanitizer: some minutes, most of them for the first
# build, which is kept.
sanitize: sanitize-threads
	PYTHON="$(PYTHON)" bash tools/sanitize.sh

sanitize-threads:
	PYTHON="$(PYTHON)" bash tools/sanitize.sh thread

# A million damaged files for the readers; findings come into fuzz-findings. SEED: others than the last time.
SEED ?= 0
fuzz:
	PYTHONPATH=.:tests $(PYTHON) -m fuzz --inputs 1000000 --seed $(SEED)

# The tests of faults on real processes, the slow ones too, ROUNDS times; ends at the first round that fails.
ROUNDS ?= 20
faults:
	for round in $$(seq $(ROUNDS)); do echo "round $$round"; $(PYTHON) -m pytest -q -x -n 2 -m "slow or not slow" \
		tests/test_faults.py tests/test_checkpoints.py tests/test_distributed.py || exit 1; done

# The sdist, and a wheel for each Python of PYTHONS, into dist/ (see tools/build_wheels.sh).
PYTHONS ?= $(PYTHON)
wheels:
	PYTHON="$(PYTHON)" bash tools/build_wheels.sh $(PYTHONS)
