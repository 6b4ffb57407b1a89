# `make` prints the targets. BIN=/some/venv/bin/ uses another environment, PYTHON=python3.13 another Python.
PYTHON ?= python3
BIN ?= .venv/bin/
ROUNDS ?= 20

.PHONY: help setup demo check test conformance bench bench-peers soak

help:   ## print this
	@sed -n 's/^\([a-z-]*\): *## /\1  /p' $(MAKEFILE_LIST) | awk '{n = $$1; $$1 = ""; printf "%-13s%s\n", n, $$0}'
setup:  ## make .venv with everything that the other targets need
	$(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python .venv install -q -e '.[dev]'
	$(BIN)python tests/conformance/fetch.py
demo:   ## run the same work with threads and with processes, and compare
	$(BIN)jobq demo
check:  ## format, lint, types, import rules
	$(BIN)ruff format --check .
	$(BIN)ruff check .
	$(BIN)mypy
	$(BIN)lint-imports
test:   ## run all tests, six at a time, with RQ's own
	$(BIN)pytest -n 6 --dist worksteal
conformance: ## run RQ's own test suite with our classes in place of RQ's
	$(BIN)python tests/conformance/fetch.py
	$(BIN)python tests/conformance/suite.py
bench:  ## compare throughput with RQ, about a minute
	$(BIN)python benchmarks/throughput.py
	$(BIN)python benchmarks/rq_classes.py
bench-peers: ## jobq beside rq, celery, dramatiq, huey, taskiq, saq, streaq and arq, each in its own environment; hours
	PYTHONPATH=benchmarks $(BIN)python -m peers --write benchmarks/RESULTS.md
soak:   ## run the long tests: 5,000 random histories of the protocol, storms of 1,000 kills, memory over 1,000,000 jobs, the lifecycle tests ROUNDS times
	$(BIN)python benchmarks/memory.py
	JOBQ_EXAMPLES=5000 $(BIN)pytest -q tests/properties
	$(BIN)jobq chaos --jobs 20000 --kills 1000 --seconds 220
	$(BIN)jobq chaos --jobs 20000 --kills 1000 --seconds 220 --queues 3
	$(BIN)jobq chaos --jobs 20000 --kills 1000 --seconds 220 --queues 3 --on-crash fail
	$(BIN)python tests/soak/storm.py --seconds 1800
	$(BIN)pytest -q -m slow
	for round in $$(seq $(ROUNDS)); do echo "round $$round"; $(BIN)pytest -q tests/lifecycle || exit 1; done
