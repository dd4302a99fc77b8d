# aixgo: the two commands are `make run` and `make test`; `make help` lists all.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTO_VENV := .venv-proto
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip
PROTOS := $(wildcard proto/aixgo/v1/*.proto)
OURS := sdk controlplane services tests examples

.DEFAULT_GOAL := help
.PHONY: help run test unit check format proto render containers bench chaos clean

help: ## list the commands
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "aixgo needs Python 3.11 or later; this is $$($(PYTHON) --version). Set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --upgrade 'pip>=25.1'

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing aixgo with the embedded model's engine into $(VENV) ..."
	@$(PIP) install --progress-bar on -c constraints.txt -e '.[local]' \
	  || { echo "The embedded model's engine cannot be installed here; installing aixgo without it."; \
	       $(PIP) install -c constraints.txt -e '.[openai]'; }
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.run
	$(PIP) install --quiet -c constraints.txt --group dev
	@touch $@

run: $(VENV)/.run ## a fleet of agents on this machine does a job: classifies support messages
	@$(BIN)/python examples/support-desk/main.py

test: $(VENV)/.dev ## all tests with coverage, subprocesses included
	@rm -f .coverage .coverage.*
	@$(BIN)/aixgo model pull || echo "without the embedded model, its tests are skipped"
	$(BIN)/coverage run -m pytest -m "not containers"
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

unit: $(VENV)/.dev ## the quick tests
	$(BIN)/pytest tests/unit -x

check: $(VENV)/.dev $(PROTO_VENV)/.done ## lint, types, import rules, wire contract, generated code, docs
	$(BIN)/ruff check $(OURS)
	$(BIN)/ruff format --check $(OURS)
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/buf lint proto
	@tag=$$(git describe --tags --match 'v*' --abbrev=0 2>/dev/null) \
	  || { echo "no release yet whose wire contract could be broken"; exit 0; }; \
	  released=$$(mktemp -d) && git archive $$tag proto | tar -x -C $$released \
	  && $(BIN)/buf breaking proto --against $$released/proto && rm -r $$released \
	  && echo "the wire contract is compatible with $$tag"
	@tree=$$(mktemp -d) && mkdir -p $$tree/aixgo/v1 && $(MAKE) --no-print-directory _generate OUT=$$tree \
	  && diff -r -x __init__.py -x __pycache__ $$tree/aixgo/v1 sdk/aixgo/v1 \
	  && rm -r $$tree && echo "generated code is fresh" \
	  || { echo "sdk/aixgo/v1 differs from proto/: run make proto"; exit 1; }
	$(BIN)/pytest tests/docs tests/deploy/test_rendered.py

format: $(VENV)/.dev ## format the code
	$(BIN)/ruff check --fix $(OURS)
	$(BIN)/ruff format $(OURS)

# A venv of its own, because grpcio-tools 1.76 bundles protobuf 6, and what it generates runs on protobuf 6 and 7.
$(PROTO_VENV)/.done:
	$(PYTHON) -m venv $(PROTO_VENV)
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(PROTO_VENV)/bin/pip install --quiet grpcio-tools==1.76.0 mypy-protobuf==5.1.0
	@touch $@

proto: $(PROTO_VENV)/.done ## generate sdk/aixgo/v1 from proto/
	@$(MAKE) --no-print-directory _generate OUT=sdk

.PHONY: _generate
_generate:
	@PATH="$(CURDIR)/$(PROTO_VENV)/bin:$$PATH" $(PROTO_VENV)/bin/python -m grpc_tools.protoc -Iproto --python_out=$(OUT) \
	  --mypy_out=quiet:$(OUT) --grpc_python_out=$(OUT) --mypy_grpc_out=quiet,only_async:$(OUT) $(PROTOS)

containers: $(VENV)/.dev ## build the image, and test it and the Compose fleet (needs Docker)
	$(BIN)/hadolint deploy/docker/Dockerfile
	$(BIN)/pytest tests/containers

render: $(VENV)/.dev ## write what is rendered under deploy/
	@$(BIN)/python tests/tools/render_deploy.py

bench: $(VENV)/.dev ## what aixgo costs above what it stands on; BENCH="cores growth" picks tables
	@$(BIN)/python tests/bench/bench.py $(BENCH)

chaos: $(VENV)/.dev ## faults, cancelled trees, killed mailboxes, hostile input and a soak, in real processes (hours)
	@held=0; for part in chaos chaos.mailboxes chaos.hostile chaos.soak; do \
	  echo "$(BIN)/python -m tests.$$part" && $(BIN)/python -m tests.$$part || held=1; done; exit $$held

clean: ## remove everything that make made
	rm -rf $(VENV) $(PROTO_VENV) .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis dist
