# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
VENV   := .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
DATA   ?=
OUT    ?=

.PHONY: demo test lint docs kill-battery bench-mining study clean

# The stamp is remade whenever what is to be installed changes.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/segue demo $(if $(DATA),--data $(DATA)) $(if $(OUT),--out $(OUT))

test: $(VENV)/.installed lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Kills a migration's runner 20 times and looks at every item afterwards.
kill-battery: $(VENV)/.installed
	$(BIN)/python benchmarks/kill_battery.py

# Time and memory of mining, against other miners and a training step, in one thread.
bench-mining: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mining.py

# Every strategy and bridge on the same upgrade: hours on two cores; stops and goes on. STUDY=short
# draws faces and takes seconds. PART=test measures each frozen recipe once. STUDIES=ablations is
# the smaller upgrade alone.
STUDY   ?= full
PART    ?= validation
WORKERS ?= 2
study: $(VENV)/.installed
	$(BIN)/python -m benchmarks.study $(if $(filter short,$(STUDY)),--short) --part $(PART) \
		--workers $(WORKERS) --out $(if $(OUT),$(OUT),.study$(if $(filter short,$(STUDY)),/short)) \
		$(if $(DATA),--data $(DATA)) $(if $(STUDIES),--studies '$(STUDIES)')

docs: $(VENV)/.installed
	$(BIN)/python -m segue.cli.reference > docs/cli.md

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
