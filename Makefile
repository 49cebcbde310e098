# The targets below are how the project is driven; `make help` lists them.
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv

# GPU=yes or no decides, as on a cluster's login node; else an environment for GPUs stays one (jobs may run from it), else a
# driver that answers.
override GPU := $(filter yes,$(or $(filter yes no,$(GPU)),$(if $(wildcard $(VENV)/.installed-gpu),yes),\
  $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)))
LOCK := requirements/$(if $(GPU),gpu,cpu).txt
STAMP := $(VENV)/.installed-$(basename $(notdir $(LOCK)))
# torch's CPU build is not on PyPI: it lies on PyTorch's own site, or in a folder where pip is told of one.
TORCH_SITE ?= https://download.pytorch.org/whl/cpu
TORCH_FOLDER := $(addprefix --find-links ,$(PIP_FIND_LINKS))
# Every file must have a hash of the lock, and what builds the source packages one of build.txt.
VERIFIED := --no-deps --require-hashes --build-constraints requirements/build.txt

ARGS ?=
WORKERS ?= 2
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help install demo convert train merge serve evaluate agentfabric test unit e2e test-clients gpu lint format hooks lock lock-clients audit map clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z0-9 -]+:.*## /{n = split($$1, names, " "); \
	  for (i = 1; i <= n; i++) printf "  make %-12s %s\n", names[i], $$2}' $(MAKEFILE_LIST)
	@echo '  ARGS="..." passes overrides on, e.g. make train ARGS="+experiment=demo lora.rank=8"'

install: $(STAMP)  ## make .venv from the lock file (CPU or GPU, whichever is here)

$(STAMP): $(LOCK) requirements/uv.txt requirements/build.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed; install Python 3.11 or set PYTHON="; exit 1; }
	@echo "installing $(LOCK) into $(VENV)"
	@$(PYTHON) -m venv $(if $(filter-out $(STAMP),$(wildcard $(VENV)/.installed-*)),--clear) $(VENV)
	@$(PY) -m pip -qq --disable-pip-version-check install --no-deps --require-hashes -r requirements/uv.txt
	@$(UV) pip install --python $(PY) $(VERIFIED) $(if $(GPU),,$(or $(TORCH_FOLDER),--find-links $(TORCH_SITE)/torch/)) -r $(LOCK)
	@$(PY) -c 'import torch, vllm, deepspeed' >/dev/null 2>&1 || { $(PY) -c 'import torch, vllm, deepspeed'; exit 1; }
	@touch $@

demo: install  ## the whole path on the embedded model: convert, train, merge, serve, evaluate; ends with a table
	@$(PY) convert.py +experiment=demo resume=true
	@$(PY) train.py +experiment=demo resume=true
	@$(PY) merge.py +experiment=demo resume=true
	@$(PY) evaluate.py +experiment=demo resume=true
	@sed -n '/^## What to try next/,$$p' outputs/demo/main/README.md
	@echo "outputs/demo/main/README.md says what else lies there."

agentfabric: install  ## put the served model into AgentFabric's model_config.json: DIR=FOLDER
	@$(PY) serve.py serve=register serve.agentfabric="$(DIR)" $(ARGS)

convert train merge serve evaluate: install  ## one step, with ARGS="..."
	@$(PY) $@.py $(ARGS)

# One after the other the tests keep little more than one core of two busy; a file's tests stay together, for they share
# what they set up.
test: install  ## all tests, unit and end to end, WORKERS files at a time
	@$(PY) -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

unit: install  ## the tests without servers and launchers
	@$(PY) -m pytest -q -m "not e2e and not gpu"

e2e: install  ## the tests with real vLLM and launchers, and runs that are killed
	@$(PY) -m pytest -q -m e2e

CLIENTS := openai_sdk langchain role_play role_play_april react_chat
test-clients: install $(CLIENTS:%=.venvs/%/.installed)  ## real clients, each in its own environment, against MODEL=FOLDER (the demo's)
	@test -f "$(or $(MODEL),outputs/demo/main/merge/model)/config.json" || { echo "error: no model to play against;" \
	  "make demo makes one, or give MODEL=FOLDER of a merged one"; exit 1; }
	@MODEL="$(MODEL)" FORMAT="$(FORMAT)" $(PY) -m pytest -q tests/clients

.venvs/%/.installed: tests/clients/requirements-%.txt | install
	@echo "installing the client $* into .venvs/$*"
	@$(UV) venv -q --clear --python $(PY) .venvs/$*
	@$(UV) pip install -q --python .venvs/$*/bin/python $(VERIFIED) -r $<
	@touch $@

gpu: install  ## the tests that need a CUDA device
	@$(PY) -m pytest -q -m gpu

lint: install  ## format, style, types and import floors
	@$(VENV)/bin/ruff format --check . && $(VENV)/bin/ruff check . && $(VENV)/bin/mypy && $(VENV)/bin/lint-imports

format: install  ## rewrite the code in the house format
	@$(VENV)/bin/ruff format . && $(VENV)/bin/ruff check --fix .

hooks: install  ## let git run what lint runs before every commit
	@$(VENV)/bin/pre-commit install

COMPILE := uv pip compile -p 3.11 -q --upgrade --generate-hashes --no-header --no-annotate \
	--python-platform x86_64-unknown-linux-gnu
EXTRAS := --extra demo --extra sweep --extra bfcl --extra chat --extra dev
# uv takes hashes from an index, but not from a page of links. PyPI comes first: PyTorch's site has old copies of other packages.
LOCKED_TORCH := $(or $(TORCH_FOLDER),--index https://pypi.org/simple --default-index $(TORCH_SITE) \
	--index-strategy unsafe-best-match)

# Only the CPU lock may look where torch's CPU build lies: from that build's needs the CUDA libraries are missing.
lock: install  ## renew the lock files: for CPU, for GPU, uv itself, what builds source packages
	@cd requirements && ../$(VENV)/bin/$(COMPILE) ../pyproject.toml $(EXTRAS) $(LOCKED_TORCH) --extra serve-cpu \
	  --override overrides-cpu.txt -o cpu.txt > /dev/null
	@cd requirements && ../$(VENV)/bin/$(COMPILE) ../pyproject.toml $(EXTRAS) --extra serve-gpu \
	  --override overrides-gpu.txt -o gpu.txt > /dev/null
	@cd requirements && for name in uv build; do ../$(VENV)/bin/$(COMPILE) $$name.in -o $$name.txt > /dev/null || exit 1; done
	@cd requirements && grep -c == cpu.txt gpu.txt uv.txt build.txt

lock-clients: install  ## renew the lock files of the clients in tests/clients
	@cd tests/clients && for client in $(CLIENTS); do \
	  ../../$(VENV)/bin/$(COMPILE) requirements-$$client.in -o requirements-$$client.txt > /dev/null || exit 1; done

map: install  ## the tree, as the README shows it; ROOM=train says what each module of a room is for
	@$(PY) tests/docs/tree.py $(ROOM)

audit: install  ## known vulnerabilities of the locked versions; requirements/audit.md explains what is found
	@$(PY) requirements/audit.py $(ARGS)

clean:  ## remove all runs, with SURE=yes
	@test "$(SURE)" = yes || { echo "error: this deletes all runs in outputs/; if you are sure: make clean SURE=yes"; exit 1; }
	rm -rf outputs multirun
