# Everything a developer types. Each target makes .venv first when it is missing or older than the lock.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed
ARGS ?=
# Two test processes, for tests without Ray only: a process that is connected to a cluster trains on it, which is slower. Files keep
# their order, as the first folders take longest.
SIDE_BY_SIDE := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: help install demo test test-alone test-cluster test-fast test-faults check lock bench bench-data bench-quality bench-train bench-tune bench-predict bench-serve bench-page soak screenshots pictures reference docs clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP) ## Make .venv with the locked packages and this project

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $(STAMP)

demo: install ## Tune, register, serve and open the page on the bundled messages (ARGS=--once to stop after the check)
	$(BIN)/manta demo $(ARGS)

test: test-alone test-cluster ## Run every test but those that kill processes

test-alone: install ## Run those that need no Ray cluster, in two processes
	$(BIN)/python -m pytest -m "not faults and not ray" $(SIDE_BY_SIDE) $(ARGS)

test-cluster: install ## Run those that need a Ray cluster, in one process
	$(BIN)/python -m pytest -m "ray and not faults" $(ARGS)

test-fast: install ## Run the tests that need no Ray cluster, tracking server or browser: about three minutes
	$(BIN)/python -m pytest -m "not ray and not server and not page and not faults and not slow" $(SIDE_BY_SIDE) $(ARGS)

test-faults: install ## Run the tests that interrupt and kill processes
	$(BIN)/python -m pytest -m faults $(ARGS)

check: install ## Lint, types and import rules, as pre-commit and CI run them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: install ## Compile requirements.lock from pyproject.toml
	$(BIN)/pip-compile --quiet --upgrade --extra dev --strip-extras --allow-unsafe --no-annotate --no-header \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file requirements.lock pyproject.toml
	sed -i -E -e 's/^(torch==[0-9.]+)\+.*/\1/' -e '/^manta-platform @/d' requirements.lock

bench: install ## Measure what the defaults are worth beside other ways to use the encoder (ARGS="--data DIR"), without SetFit
	$(BIN)/python benchmarks/quality.py $(ARGS)

bench-quality: install $(PEERS_STAMP) ## The same with SetFit and frozen embeddings, which get an environment of their own
	$(BIN)/python benchmarks/quality.py --peers-python $(PEERS)/bin/python $(ARGS)

bench-data: install ## Measure how well `manta data check` finds planted errors (ARGS="--data DIR")
	$(BIN)/python benchmarks/data.py $(ARGS)

$(PEERS_STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS)/bin/python -m pip install --quiet --constraint requirements.lock ".[quality-peers]"
	touch $(PEERS_STAMP)

bench-train: install ## Measure training speed beside Hugging Face Trainer and a plain loop
	$(BIN)/python benchmarks/train.py $(ARGS)

bench-tune: install ## Measure what a search costs beside training (ARGS=--search: and what stopping early saves)
	$(BIN)/python benchmarks/tune.py $(ARGS)

bench-predict: install ## Measure batch prediction beside a transformers pipeline and plain Ray Data
	$(BIN)/python benchmarks/predict.py $(ARGS)

bench-serve: install ## Measure the API beside FastAPI, LitServe and Ray Serve's documented pattern (needs wrk)
	$(BIN)/python benchmarks/serve.py $(ARGS)

soak: install ## Keep a service busy for half an hour and watch its memory (ARGS="--minutes 3"; needs wrk)
	$(BIN)/python benchmarks/soak.py $(ARGS)

bench-page: install ## Measure how fast the page is in a browser, in front of a running manta serve
	$(BIN)/python benchmarks/page.py $(ARGS)

screenshots: install ## Take every tab in four settings on models of 2, 12 and 80 labels, into dist/screenshots (ARGS="--labels 12 --tabs models")
	$(BIN)/python -m tests.ui.gallery $(ARGS)

pictures: install ## Take the README's pictures from the page of a running demo
	$(BIN)/python docs/screenshots.py $(ARGS)

reference: install ## Write docs/reference/ from the settings, commands and HTTP paths of the code
	$(BIN)/python docs/reference.py

docs: reference ## Build the site of the guides into site/; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict

clean: ## Remove what the other targets made
	rm -rf $(VENV) $(PEERS) dist build site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
