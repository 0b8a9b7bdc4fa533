# Thin wrappers around `procunit` and tools/: every recipe is one command that you can also run by hand.
#   make demo [DATA=DIR] [RATE=120|max] [BACKBONE=efficientnet_b3] [OUT=work/demo]
#   make test          set up, lint, types, import rules, tests
#   make test-slow     what takes long: whole chains, services that run for minutes
#   make accept DATA=DIR
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help setup setup-demo demo test lint unit test-slow test-py310 test-rtx14 accept bench-peers drill-mqtt drill-power \
	drill-disk drill-backlog drill-fuzz drill-bundles drill-bank drill-learning drill-hidden drill-variants lock wheels notices sbom \
	clean

VENV ?= .venv
BIN := $(VENV)/bin
RATE ?= 120
OUT ?= work/demo
PARALLEL := --numprocesses 3 --dist loadfile

help: ## show the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## create the virtual environment, install dependencies and, if missing, mosquitto
	@bash tools/setup.sh $(VENV) dev

setup-demo:
	@bash tools/setup.sh $(VENV) offline

demo: setup-demo ## from photographs to verdicts on an MQTT broker, in one command
	@$(BIN)/python -m tools.demo --rate $(RATE) --out $(OUT) $(if $(DATA),--data "$(DATA)") $(if $(BACKBONE),--backbone $(BACKBONE))

test: setup lint unit ## set up everything and run every check

lint: setup ## ruff, mypy and the import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

unit: setup ## the tests, in three workers: many of them wait for a broker or a clock
	@$(BIN)/python -m pytest $(PARALLEL)

test-slow: setup ## real services for long, whole chains: what `make test` leaves out
	@$(BIN)/python -m pytest $(PARALLEL) -m slow

test-rtx14: setup ## build every form of the graph with TensorRT for RTX 1.4 (API of TensorRT 10), in its own environment
	@bash tools/environments/test_rtx14.sh $(VENV)

test-py310: setup ## the device's tests on Python 3.10; if it is not installed, mypy and ruff for 3.10
	@bash tools/environments/test_py310.sh $(VENV)

accept: setup-demo ## acceptance run on real photographs (DATA=DIR); writes figures into docs/measurements.md
	@test -n "$(DATA)" || { echo "usage: make accept DATA=DIR (good/ and one folder per defect type)"; exit 2; }
	@$(BIN)/python -m tools.accept --data "$(DATA)"

bench-peers: setup-demo ## our PatchCore against anomalib's, speed and accuracy (DATA=DIR; takes hours, less with FOLDS=1)
	@test -n "$(DATA)" || { echo "usage: make bench-peers DATA=DIR (good/ and one folder per defect type)"; exit 2; }
	@bash tools/benchmarks/peers.sh $(VENV) "$(DATA)" $(FOLDS)

drill-mqtt: setup ## MQTT: kills, partitions, loss, an outage, a slow link (all, or DRILLS="loss outage"; SHORT=1)
	@$(BIN)/python -m tools.drills.mqtt $(if $(SHORT),--short) $(DRILLS)

drill-power: setup ## 200 simulated power cuts on copies of a disk (needs root)
	@$(BIN)/python -m tools.drills.power --cycles 200

drill-disk: setup ## a full disk while running, when stopping and when starting (needs root)
	@$(BIN)/python -m tools.drills.disk

drill-backlog: setup ## send a backlog of a million results, then 500 per second for 10 minutes
	@$(BIN)/python -m tools.drills.backlog

drill-fuzz: setup ## a million invalid commands and settings
	@$(BIN)/python -m tools.drills.fuzz --inputs 1000000

drill-bundles: setup ## ten thousand damaged and hostile bundles, half of them signed again
	@$(BIN)/python -m tools.drills.bundles $(if $(COUNT),--count $(COUNT))

drill-bank: setup ## time and memory of building memory banks from 50, 500 and 5000 photographs
	@$(BIN)/python -m tools.drills.bank $(if $(SIZES),--sizes $(SIZES))

drill-learning: setup ## accuracy of each learning method on held-out parts (DATA=DIR; about an hour)
	@test -n "$(DATA)" || { echo "usage: make drill-learning DATA=DIR (good/ and one folder per defect type)"; exit 2; }
	@$(BIN)/python -W ignore -m tools.drills.learning --data "$(DATA)"

drill-hidden: setup ## accuracy lost to defects hidden among the good parts (DATA=DIR; about 15 minutes)
	@test -n "$(DATA)" || { echo "usage: make drill-hidden DATA=DIR (good/ and one folder per defect type)"; exit 2; }
	@$(BIN)/python -W ignore -m tools.drills.hidden --data "$(DATA)"

drill-variants: setup ## compare all precisions of a trained run (RUN=DIR)
	@test -n "$(RUN)" || { echo "usage: make drill-variants RUN=DIR (made by procunit train)"; exit 2; }
	@$(BIN)/python -m tools.benchmarks.variant_table --run "$(RUN)"

lock: setup ## requirements/device.lock: what a device installs, with hashes (UPGRADE=1 for newer versions)
	@$(BIN)/uv pip compile pyproject.toml --extra ort --extra opencv --universal --python-version 3.10 --generate-hashes \
		--quiet --output-file requirements/device.lock $(if $(UPGRADE),--upgrade)

wheels: setup ## every wheel of the lock, for all architectures and Python versions, into build/wheels
	@$(BIN)/python -m tools.open_source.wheels build/wheels

notices: wheels ## THIRD_PARTY_NOTICES.md from the wheels that a device installs
	@$(BIN)/python -m tools.open_source.notices build/wheels

sbom: setup ## build/sbom.cdx.json: a CycloneDX bill of materials of what the lock installs on this machine
	@bash tools/open_source/sbom.sh $(VENV) build/sbom.cdx.json

clean: ## remove everything that make created
	rm -rf $(VENV) .venv310 .venv-rtx14 .venv-peers work build *.egg-info
