# make train, make test, make parity. Everything is installed into .venv; nothing is installed twice.
#
# PYTHON       the interpreter to make .venv with (3.11 or newer)
# ACCELERATOR  cpu, cuda or tpu; cuda is chosen where nvidia-smi is found
PYTHON ?= python3
ACCELERATOR ?= $(if $(shell command -v nvidia-smi 2>/dev/null),cuda,cpu)
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/installed
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
JAX_EXTRA := $(if $(filter cuda,$(ACCELERATOR)),cuda13,$(ACCELERATOR))

.PHONY: train test parity lint clean

train: $(STAMP)-$(ACCELERATOR)
	$(PY) -m train $(ARGS)

test: $(STAMP)-test
	$(PY) -m ruff check --quiet . && $(PY) -m ruff format --quiet --check .
	$(PY) -m pytest -n 2 --dist loadgroup -q $(ARGS)

parity: $(STAMP)-parity
	$(PY) -m pytest -q tests/parity $(ARGS)

lint: $(STAMP)-test
	$(PY) -m ruff check --fix . && $(PY) -m ruff format .

clean:
	rm -rf $(VENV) .cache

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit("segjax needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(STAMP)-cpu: requirements.txt | $(PY)
	@echo "installing requirements.txt into $(VENV) (once, about a minute) ..."
	$(PIP) -r requirements.txt
	@touch $@

# The accelerator's wheels are those of the very jax that requirements.txt pins.
$(STAMP)-cuda $(STAMP)-tpu: requirements.txt | $(PY)
	@echo "installing requirements.txt and jax[$(JAX_EXTRA)] into $(VENV) (once, some minutes) ..."
	$(PIP) -r requirements.txt
	$(PIP) "jax[$(JAX_EXTRA)]==$$($(PY) -c 'import importlib.metadata as m; print(m.version("jax"))')"
	@touch $@

$(STAMP)-test: requirements-test.txt $(STAMP)-$(ACCELERATOR)
	$(PIP) -r requirements-test.txt
	@touch $@

$(STAMP)-parity: requirements-parity.txt $(STAMP)-test
	@echo "installing torch and torchvision into $(VENV) (once; several gigabytes) ..."
	$(PIP) -r requirements-parity.txt
	@touch $@
