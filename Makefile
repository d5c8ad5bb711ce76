# Everything runs in ./.venv, which `make install` builds from constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo check test test-all bench soak clean
install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "cuepack needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: install
	rm -rf demo
	$(BIN)/cuepack sample --out demo/sample
	$(BIN)/cuepack extract demo/sample/bridge_raw --out demo --profile cpu
	$(BIN)/cuepack validate demo
	@echo
	@echo "The packets lie in ./demo/packets; the manifest is ./demo/manifest.csv."
	@echo "Look at one:  $(BIN)/cuepack inspect $$(ls demo/packets/*/*.h5 | head -n 1)"

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: install
	$(BIN)/pytest -m "not slow and not gpu and not weights"

test-all: install
	$(BIN)/pytest

# Measurements, printed with the hardware. TRUTH: a folder of ground-truth episodes (default: the bundled sample's).
TRUTH ?= sample
bench: install
	$(BIN)/python -m tests.benchmarks.pipeline --quick
	$(BIN)/python -m tests.benchmarks.accuracy $(TRUTH)

# The engine under everything that people do to sources and runs, against fresh runs; prints its seeds.
SOAK_STEPS ?= 20000
soak: install
	$(BIN)/python -m tests.flows.run.soaking --steps $(SOAK_STEPS) --seed $(shell date +%s)

clean:
	rm -rf demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
