# Words for the command line; all logic is in `python -m pipelines` (see `make help`).

PYTHON     ?= python3.11
VENV       := .venv
RUN        := $(VENV)/bin/python -m pipelines
EXPERIMENT ?= configs/experiment/demo.yaml
CLUSTER    ?= configs/cluster/local.yaml
WORKSPACE  ?=
SET        ?=
PORT       ?= 5000
JOBS       ?= 2
AUDIO      ?= data/audio

WHERE := --experiment $(EXPERIMENT) --cluster $(CLUSTER) $(if $(WORKSPACE),--workspace $(WORKSPACE)) $(if $(SET),--set-all "$$SET")
export SET  # through the environment, so that no quote in a value meets the shell

.DEFAULT_GOAL := help
.PHONY: help setup dev docs demo pipeline stage preview status explain rejects lineage forget listen doctor verify gc pretrain score ui test fuzz faults lint format

help:  ## show this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
	@echo
	@echo 'Variables: EXPERIMENT=FILE CLUSTER=FILE WORKSPACE=DIR|URL SET="train.max_steps=100 seed=2" STAGE=name FORCE=1'

setup: $(VENV)/.done  ## make the virtual environment (the other targets do it themselves)

dev: $(VENV)/.dev  ## add what tests, linters and docs need (test, lint and docs do it themselves)

$(VENV)/.done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo 'Python 3.11, 3.12 or 3.13 is needed; say which: make setup PYTHON=/path/to/python3.11'; exit 1; }
	@echo 'setting up $(VENV) (a few minutes the first time) …'
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[pipeline]'
	@touch $@

$(VENV)/.dev: $(VENV)/.done
	@echo 'adding the development tools to $(VENV) …'
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[pipeline,docs,dev]'
	@touch $@

pipeline: setup  ## run every stage that is not fresh
	@$(RUN) run $(WHERE) $(if $(FORCE),--force)

stage: setup  ## run one stage or a range: make stage STAGE=evaluate [FORCE=1]
	@test -n "$(STAGE)" || { echo 'which stage? e.g. make stage STAGE=evaluate'; exit 2; }
	@$(RUN) run $(STAGE) $(WHERE) $(if $(FORCE),--force)

preview: setup  ## say what would run, why, and what it would cost: hours, time, bytes
	@$(RUN) run $(STAGE) $(WHERE) --dry-run $(if $(FORCE),--force)

status: setup  ## show every stage: state, counts, hours
	@$(RUN) status $(WHERE)

explain: setup  ## say why a stage will run: make explain STAGE=simulate
	@test -n "$(STAGE)" || { echo 'which stage? e.g. make explain STAGE=simulate'; exit 2; }
	@$(RUN) explain $(STAGE) $(WHERE)

rejects: setup  ## show what was turned away, by stage, corpus and reason
	@$(RUN) rejects $(WHERE)

lineage: setup  ## follow make lineage UTTERANCE=id, or trace make lineage MODEL=folder
	@test -n "$(UTTERANCE)$(MODEL)" || { echo 'of what? make lineage UTTERANCE=id, or make lineage MODEL=folder'; exit 2; }
	@$(RUN) lineage $(WHERE) $(if $(MODEL),--model '$(MODEL)',--utterance '$(UTTERANCE)')

forget: setup  ## forget make forget UTTERANCE=id, SPEAKER=s [CORPUS=c] or CORPUS=c (UNDO=1); alone: show the list
	@$(RUN) forget $(WHERE) $(if $(UTTERANCE),--utterance '$(UTTERANCE)') $(if $(SPEAKER),--speaker '$(SPEAKER)') $(if $(CORPUS),--corpus '$(CORPUS)') $(if $(UNDO),--undo) $(if $(UTTERANCE)$(SPEAKER)$(CORPUS),,--list)

listen: setup  ## write a page to hear mixtures by: make listen [SPLIT=dev] [COUNT=10]
	@$(RUN) listen $(WHERE) $(if $(SPLIT),--split $(SPLIT)) $(if $(COUNT),--count $(COUNT))

doctor: setup  ## look at corpora, models, disk, MLflow and Ray before work starts
	@$(RUN) doctor $(WHERE)

verify: setup  ## hash every output against its record
	@$(RUN) verify $(WHERE)

gc: setup  ## list outputs that this configuration does not need (YES=1 deletes them)
	@$(RUN) gc $(WHERE) $(if $(YES),--yes)

pretrain: setup  ## train an embedded model: make pretrain MODEL=whisper|vocos|speaker|flowse [AUDIO=DIR]
	@test -n "$(MODEL)" || { echo 'which model? make pretrain MODEL=whisper, vocos, speaker or flowse'; exit 2; }
	@$(VENV)/bin/python -m pipelines.pretrain train '$(MODEL)' --audio '$(AUDIO)' $(ARGS)

score: setup  ## score an embedded model with the figures of its card: make score MODEL=… [AUDIO=DIR]
	@test -n "$(MODEL)" || { echo 'which model? make score MODEL=whisper, vocos, speaker or flowse'; exit 2; }
	@$(VENV)/bin/python -m pipelines.pretrain score '$(MODEL)' --audio '$(AUDIO)' $(ARGS)

ui: setup  ## open the MLflow UI at the experiment's runs
	@$(RUN) ui $(WHERE) --port $(PORT)

test: dev  ## run the tests
	@$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile -q

fuzz: dev  ## feed damaged inputs to the command line: make fuzz [SEED=1] [COUNT=2000] [ONLY=n] (about 10 minutes)
	@$(VENV)/bin/python -m tests.fuzz --jobs $(JOBS) $(if $(SEED),--seed $(SEED)) $(if $(COUNT),--count $(COUNT)) $(if $(ONLY),--only $(ONLY))

faults: dev  ## run the whole fault matrix, and many sequences of changed corpora (30 minutes)
	@$(VENV)/bin/python -m pytest -n $(JOBS) --dist load -q -m 'faults or not faults' --timeout 600 tests/pipelines/test_faults.py tests/pipelines/test_store_faults.py tests/pipelines/test_nodes.py tests/pipelines/test_growth.py
	@$(VENV)/bin/python -m pytest -n $(JOBS) --dist load -q -m faults --timeout 600 tests/pipelines/test_pipeline.py tests/pipelines/engine tests/flowse/training/test_ranks.py

lint: dev  ## check style, types and import walls
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

docs: dev  ## build the pages of docs/ into site/, strictly
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet

demo: dev  ## open the page that enhances what you record or upload
	@$(VENV)/bin/flowse demo

format: dev  ## format the code
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .
