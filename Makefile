# make demo    the whole story on an embedded fleet of 8 nodes          make test   every check and every test
# make lint    the checks without the tests                             make bench  speed beside coturn's, 20 minutes
# Each sets up .venv by itself and is safe to repeat. Needs make, a POSIX sh and Python 3.11 or newer; no root.
.DEFAULT_GOAL := help
.PHONY: help demo test lint check-style check-types check-imports check-node-python check-tests
.PHONY: bench peers completions picture clean format fuzz soak
.NOTPARALLEL:

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
CHECKED := commcli tests tools

# A stamp whose Python no longer starts (upgraded, moved away) counts for nothing.
ifneq ($(shell $(PYTHON) -c 'print("runs")' 2>/dev/null),runs)
.PHONY: $(STAMP)
endif

help:
	@sed -n 's/^# \{0,1\}//; 1,3p' Makefile

$(STAMP): pyproject.toml tools/venv.sh
	@sh tools/venv.sh $(VENV)
	@touch $@

demo: $(STAMP)
	@$(PYTHON) -m commcli lab demo

# Both halves always run, so that one round shows all that is wrong; pytest's summary comes last.
test: $(STAMP)
	@verdict=0; \
	$(MAKE) --no-print-directory -k lint || verdict=1; \
	$(MAKE) --no-print-directory check-tests || verdict=1; \
	exit $$verdict

# One target a check, so that `make -k lint` shows what each of them says.
lint: check-style check-types check-imports check-node-python

check-style: $(STAMP)
	$(PYTHON) -m ruff check $(CHECKED)
	$(PYTHON) -m ruff format --check --quiet $(CHECKED)

check-types: $(STAMP)
	$(PYTHON) -m mypy

check-imports: $(STAMP)
	$(PYTHON) -c 'from importlinter.cli import lint_imports_command; lint_imports_command(["--no-logo"])'

check-node-python: $(STAMP)
	$(PYTHON) -m tests.architecture.node_python

check-tests: $(STAMP)
	$(PYTHON) -m pytest --numprocesses 2

format: $(STAMP)
	$(PYTHON) -m ruff check --fix $(CHECKED)
	$(PYTHON) -m ruff format $(CHECKED)

# An hour and a half; a target that is missed is told, and fails nothing.
BENCHES := startup inventory plays call_setup relay_cpu bursts latency allocations spoofed wan_accuracy overlay_wan overlay_call \
	handover_gap transit_cpu transit_latency protection failover_gap protect_cost mesh_cost probe_cpu \
	probe_accuracy route_planner
bench: $(STAMP)
	@for bench in $(BENCHES); do $(PYTHON) -m tests.bench.$$bench || exit 1; done

# FUZZ_SECONDS=60 a target, FUZZ_TARGETS="stun server" some of them. Without atheris it says so and does nothing.
fuzz: $(STAMP)
	@$(PYTHON) -c 'import atheris' 2>/dev/null || $(PYTHON) -m pip install --disable-pip-version-check -q -e '.[fuzz]' || true
	@$(PYTHON) -m tests.fuzz.run

# The clients of others that tests/clients runs against our relay. What cannot be had is told, and fails nothing.
peers: $(STAMP)
	@sh tools/peers.sh

# SOAK_MINUTES=30: allocations coming and going under junk; good when memory, descriptors and ports are back at the end.
soak: $(STAMP)
	@$(PYTHON) -m tests.soak.run

completions: $(STAMP)
	@$(PYTHON) -m tests.architecture.completions completions

picture: $(STAMP)
	@$(PYTHON) tools/picture.py docs/demo.svg

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info build dist
	find commcli tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
