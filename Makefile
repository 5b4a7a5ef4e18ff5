# make demo | make test | make test-vllm | make lint | make bench. Each makes .venv, builds and installs first, where that is not done yet.

PYTHON ?= python3
VENV ?= .venv
SEED ?= 0
VLLM_VENV ?= .venv-vllm
BIN := $(VENV)/bin
VLLM_BIN := $(VLLM_VENV)/bin
RUST := $(shell find rust -name '*.rs' -o -name '*.py' -o -name Cargo.toml) Cargo.toml Cargo.lock
DEMO := runs/demo-$(SEED)

.PHONY: install demo test test-vllm lint bench clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml .ci/constraints.txt $(RUST)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e '.[train,plot,dev]'
	touch $@

# An interrupted demo goes on where it was; a finished one is shown again (remove its directory to run it anew).
demo: install
	$(BIN)/spo train $(if $(wildcard $(DEMO)/run.json),--resume $(DEMO),tiny seed=$(SEED) run_dir=$(DEMO))

test: install
	cargo test --locked --quiet
	$(BIN)/python -m pytest -m "not gpu"

# vLLM wants another transformers than we test with, hence an environment of its own. It takes torch, which is large, from
# the first one, and all that is not in .ci/vllm-requirements.txt; spo itself comes from the tree. The tests step one engine
# from several threads, and each thread of OpenMP's takes the number of its threads from the environment.
test-vllm: install $(VLLM_VENV)/installed
	OMP_NUM_THREADS=1 PYTHONPATH=python $(VLLM_BIN)/python -m pytest -m vllm tests/test_vllm*.py

$(VLLM_VENV)/installed: $(VENV)/installed .ci/vllm-requirements.txt
	test -x $(VLLM_BIN)/python || $(BIN)/python -m venv $(VLLM_VENV)
	$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r .ci/vllm-requirements.txt
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		>"$$($(VLLM_BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/spo-first-venv.pth"
	touch $@

lint: install
	cargo fmt --all --check
	cargo clippy --locked --quiet --workspace --all-targets -- -D warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest spo._native

bench:
	cargo bench --locked

clean:
	rm -rf $(VENV) $(VLLM_VENV) target python/spo/_native*.so
