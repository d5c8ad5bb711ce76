# Everything runs in ./.venv, which `make install` builds from constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo study check test test-all bench bench-loader soak clients clean fuzz audit
install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "cuepack needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

# A small study from nothing, on two CPU cores: generated episodes with exact cues, then which of them helps. The report
# is demo/study/report/index.html.
study: install
	$(BIN)/python -m tests.tools.study_packets demo/scenes --episodes 24
	$(BIN)/cuepack manifest rebuild demo/scenes
	$(BIN)/cuepack study demo/scenes --out demo/study --conditions A,B,D,F --seeds 2 --controls nothing

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
	$(BIN)/oxfmt --check packers/viewer/static/*.js flows/study/static/*.js
	$(BIN)/oxlint --deny-warnings packers/viewer/static flows/study/static

# JOBS processes share the tests, a file at a time; each takes up to 2 GB.
JOBS ?= 2
test: install
	$(BIN)/pytest -n $(JOBS) --dist loadfile -m "not slow and not gpu and not weights"

test-all: install
	$(BIN)/pytest -n $(JOBS) --dist loadfile

# Measurements, printed with the hardware, most of an hour on two cores. TRUTH: a folder of ground-truth episodes (default:
# the bundled sample's). BEFORE: a checkout of an older version, to be measured beside this one.
TRUTH ?= sample
BEFORE ?=
bench: install
	$(BIN)/python -m tests.benchmarks.pipeline --quick
	$(BIN)/python -m tests.benchmarks.threads --rounds 2
	$(BIN)/python -m tests.benchmarks.scheduler --most 300 $(if $(BEFORE),--before $(BEFORE))
	$(BIN)/python -m tests.benchmarks.scale --counts 600 6000
	$(BIN)/python -m tests.benchmarks.distribution --available
	$(BIN)/python -m tests.benchmarks.accuracy $(TRUTH)
	$(BIN)/python -m tests.benchmarks.gpu || test $$? = 2  # 2: no CUDA device was found

# The engine under everything that people do to sources and runs, against fresh runs; prints its seeds.
SOAK_STEPS ?= 20000
soak: install
	$(BIN)/python -m tests.flows.run.soaking --steps $(SOAK_STEPS) --seed $(shell date +%s)

# stable-worldmodel and LeRobot in an environment of their own: their readers, scaler, converter, editing and training
# on exports of the demo, and stable-worldmodel on the packets themselves.
CLIENTS := .clients/bin
$(CLIENTS)/python:
	$(PYTHON) -m venv .clients
	$(CLIENTS)/pip install --disable-pip-version-check --quiet stable-worldmodel lerobot h5py hdf5plugin \
	    opencv-python-headless pygame pymunk shapely imageio 'transformers<5'

clients: install $(CLIENTS)/python
	test -d demo/packets || $(MAKE) demo
	$(BIN)/cuepack export demo --format lewm-hdf5 --out demo/clients.h5 --names study --with depth/metric \
	    --with tracks/grid --with masks/object --with centroids --with shape_descriptors --with contact
	$(CLIENTS)/python tests/tools/clients_check.py demo/clients.h5
	PYTHONPATH=. $(CLIENTS)/python tests/tools/swm_packets_check.py demo demo/clients.h5
	PYTHONPATH=. $(CLIENTS)/python -m tests.tools.lewm_equal
	rm -rf demo/clients-lerobot demo/clients-act
	$(BIN)/cuepack export demo --format lerobot --out demo/clients-lerobot
	HF_HUB_OFFLINE=1 $(CLIENTS)/python tests/tools/lerobot_client_check.py demo/clients-lerobot
	HF_HUB_OFFLINE=1 $(CLIENTS)/lerobot-train --dataset.repo_id=local/demo --dataset.root=demo/clients-lerobot \
	    --dataset.video_backend=pyav --policy.type=act --policy.device=cpu --policy.push_to_hub=false \
	    --policy.pretrained_backbone_weights=null --policy.dim_model=64 --policy.n_heads=2 --policy.chunk_size=8 \
	    --policy.n_action_steps=8 --batch_size=2 --steps=3 --log_freq=1 --num_workers=0 --save_checkpoint=false \
	    --wandb.enable=false --output_dir=demo/clients-act

# Windows per second beside plain h5py and, after `make clients`, stable-worldmodel's HDF5 and Lance readers and LeRobot's
# video: one packet, 300, and 100,000. Up to 15 minutes on a quiet machine.
bench-loader: install
	$(BIN)/python -m tests.benchmarks.loader --cold --rounds 3 --windows 300 --many 100000 $(if $(wildcard $(CLIENTS)/python),--client $(CLIENTS)/python)

# Spoiled input for every reader, in child processes with limits of memory and time; N inputs for each case.
N ?= 7000
fuzz: install
	$(BIN)/python -m tests.fuzz --count $(N)

# Known vulnerabilities of what constraints.txt names. pip-audit has an environment of its own, and needs PyPI's or OSV's
# service of advisories: where that cannot be reached it says so (exit code 2).
SERVICE ?= pypi
AUDIT := .audit/bin/pip-audit
$(AUDIT):
	$(PYTHON) -m venv .audit
	.audit/bin/pip install --disable-pip-version-check --quiet pip-audit

audit: install $(AUDIT)
	$(BIN)/python -m tests.tools.audit $(AUDIT) --service $(SERVICE)

clean:
	rm -rf demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
