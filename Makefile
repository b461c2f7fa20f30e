# Everything on a fresh machine: `make grid`, `make horizons`, `make serve`, `make test`.

SHELL := /bin/bash
# Not -u: over ssh, bash reads the system's start-up files, and those use unset variables.
.SHELLFLAGS := -e -o pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
EXTRAS ?= sample
PYTHON ?= python3
ARGS ?=
PIP_FLAGS ?=

comma := ,
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))
INSTALLED_PAPER := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))$(if $(findstring ibkr,$(EXTRAS)),,-ibkr)
INSTALLED_DEV := $(VENV)/.installed-sample-dev
# ib_insync and ib_async cannot be in one environment; this one holds what trading needs, no more.
ASYNC_VENV ?= .venv-ib-async
ASYNC_PACKAGES := ib_async numpy orjson pandas pyarrow pydantic pyyaml exchange_calendars scipy \
  pytest pytest-randomly pytest-timeout hypothesis

# The first interpreter that is new enough: the one asked for, else what the machine has.
define FIND_PYTHON
for candidate in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
    found="$$candidate"; break; \
  fi; \
done; \
if [ -z "$${found:-}" ]; then \
  echo "dpa needs Python 3.11 or newer; found $$($(PYTHON) --version 2>&1 | tail -n 1);" \
    "install one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
  exit 2; \
fi
endef

.PHONY: help install grid horizons serve paper test test-long dashboards-test test-ib-async fuzz bench bench-horizons bench-serving soak bench-trading soak-trading cluster-test security-test audit constraints clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18
	@echo 'Variables: PYTHON=python3.12  EXTRAS=sample,aws  ARGS="flags of the command"  PIP_FLAGS="flags of pip"'

$(BIN)/python:
	@$(FIND_PYTHON); \
	echo "creating $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv $(VENV) || { \
	  rm -rf $(VENV); \
	  echo "the venv module is missing; on Debian or Ubuntu: sudo apt-get install python3-venv" >&2; \
	  exit 2; \
	}

# A stamp for each set of extras: nothing is installed twice until the requirements change.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing dpa[$(subst -,$(comma),$*)] into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) \
	  --constraint constraints.txt --editable '.[$(subst -,$(comma),$*)]'
	@touch $@

install: $(INSTALLED) ## a virtual environment with dpa in it (EXTRAS=sample,aws for more)

grid: $(INSTALLED) ## install, then walk-forward-train the grid on the packaged sample
	@$(BIN)/python tune/grid.py $(ARGS)

horizons: $(INSTALLED) ## install, then train predictors on an invented market of known truth
	@$(BIN)/python tune/horizons.py $(ARGS)

serve: $(INSTALLED) ## install, then serve decisions at http://127.0.0.1:8000 (an invented market at first)
	@$(BIN)/python serve/run.py $(ARGS)

paper: $(INSTALLED_PAPER) ## install with ib_insync, then trade a day of paper money through a simulated TWS
	@$(BIN)/python serve/paper.py $(ARGS)

PYTEST = OMP_NUM_THREADS=1 PYTHONPATH="$(CURDIR)" $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

test: $(INSTALLED_DEV) $(ASYNC_VENV)/.installed ## install, then ruff, mypy, import-linter and pytest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory test-ib-async ARGS=
	$(PYTEST) -m "not long" $(ARGS)

test-long: $(INSTALLED_DEV) ## the tests that take minutes: documented walk-throughs, drivers and actors killed in the middle
	$(PYTEST) -m long $(ARGS)

dashboards-test: $(INSTALLED_DEV) ## a live run under a real Prometheus: every panel has data (DPA_PICTURES=1 draws them)
	OMP_NUM_THREADS=1 PYTHONPATH="$(CURDIR)" $(BIN)/python -m pytest -p no:randomly tests/telemetry/live_dashboards.py $(ARGS)

$(ASYNC_VENV)/.installed: Makefile pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing ib_async into $(ASYNC_VENV)"
	@$(BIN)/python -m venv $(ASYNC_VENV)
	@grep -v '^tzdata==' constraints.txt > $(ASYNC_VENV)/constraints.txt # ib_async wants an older one
	@$(ASYNC_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) \
	  --constraint $(ASYNC_VENV)/constraints.txt $(ASYNC_PACKAGES)
	@touch $@

test-ib-async: $(ASYNC_VENV)/.installed ## what talks to TWS, tested with ib_async instead of ib_insync
	OMP_NUM_THREADS=1 PYTHONPATH="$(CURDIR)" $(ASYNC_VENV)/bin/python -m pytest \
	  tests/simulation/tws/test_protocol.py tests/trading/ibkr $(ARGS)

fuzz: $(INSTALLED_DEV) ## the property tests with new random examples (ARGS=tests/trading for some)
	OMP_NUM_THREADS=1 PYTHONPATH="$(CURDIR)" $(BIN)/python -m pytest -n 2 --dist loadgroup \
	  --hypothesis-profile=search --timeout=1800 \
	  $$(grep -lr --include='test_*.py' 'hypothesis import' $(or $(ARGS),tests))

bench: $(INSTALLED_DEV) bench-horizons ## the measured comparisons; DPA_MARKET_DATA=folder of real prices
	$(BIN)/python tests/benchmarks/bench_truth.py
	$(BIN)/python tests/benchmarks/bench_memory.py
	$(BIN)/python tests/benchmarks/bench_tune.py
	PYTHONPATH="$(CURDIR)" $(BIN)/python tests/benchmarks/bench_storage.py
	$(BIN)/python tests/benchmarks/bench_speed.py \
	  --data "$${DPA_MARKET_DATA:?is not set: the folder of us_daily_close.parquet}/us_daily_close.parquet"

bench-horizons: $(INSTALLED_DEV) ## the part of them about predictors
	$(BIN)/python tests/benchmarks/bench_horizons_truth.py
	$(BIN)/python tests/benchmarks/bench_inference.py
	$(BIN)/python tests/benchmarks/bench_horizons_memory.py
	$(BIN)/python tests/benchmarks/bench_horizons_real.py \
	  --data "$${DPA_MARKET_DATA:?is not set: the folder of us_5min_bars.parquet}/us_5min_bars.parquet"

bench-serving: $(INSTALLED_DEV) ## the part of them about decisions (ARGS="--names 40" for less)
	$(BIN)/python tests/benchmarks/bench_learning_loop.py
	$(BIN)/python tests/benchmarks/bench_decision.py $(ARGS)
	$(BIN)/python tests/benchmarks/bench_serving.py $(ARGS)

soak: $(INSTALLED_DEV) ## five minutes of load while every part of the graph is killed
	$(BIN)/python tests/benchmarks/soak_serving.py $(ARGS)

bench-trading: $(INSTALLED_DEV) ## the part of them about orders: bar close to wire, kill, journal, a day of parity
	$(BIN)/python tests/benchmarks/bench_trading.py $(ARGS)
	$(BIN)/python tests/benchmarks/parity_day.py

soak-trading: $(INSTALLED_DEV) ## 20 simulated sessions in one process, a restart of the gateway every night
	$(BIN)/python tests/benchmarks/soak_trading.py $(ARGS)

cluster-test: $(INSTALLED_DEV) ## as root: a cluster of namespaces that loses workers (ARGS="--only grid", ARGS=--help)
	@$(BIN)/python -m tests.hosts $(ARGS)

security-test: $(INSTALLED_DEV) ## as root: wrong and old tokens at every surface, what listens, TLS between nodes
	$(BIN)/python tests/security/surfaces.py

audit: $(INSTALLED_DEV) ## known weaknesses of the installed packages, and secrets in files or history
	@$(BIN)/python tests/security/audit.py $(ARGS)

constraints: $(INSTALLED_DEV) $(ASYNC_VENV)/.installed ## write down the versions installed in the virtual environment
	@{ sed '/^[^#]/,$$d' constraints.txt; \
	  { $(BIN)/python -m pip freeze --exclude-editable; $(ASYNC_VENV)/bin/python -m pip freeze | grep -iE '^(ib.async|aeventkit)=='; } \
	    | sed -E 's/\+[a-z0-9.]+$$//' | sort -fu; } > constraints.new
	@mv constraints.new constraints.txt && touch $(VENV)/.installed-*

clean: ## remove the virtual environment and every cache; runs/ stays
	rm -rf $(VENV) $(ASYNC_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache \
	  .import_linter_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +
