# Everything in two commands: `make study` and `make test`. Another interpreter: PYTHON=python3.12 make …
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help study full test test-code test-training test-reading attack kills report report-check \
	student lab notebooks lock clean
help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

study: .venv/installed ## set up, then run all notebooks (fast tier) into figures/kanji-fast
	$(BIN)/proxylib study

full: .venv/installed ## the same with all seeds, into figures/kanji-full
	$(BIN)/proxylib study --tier full

test: .venv/installed ## set up, then lint, run all tests and check every notebook
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) -j3 test-code test-training test-reading # each waits for its kernels now and then
	$(BIN)/python -m pytest tests/test_notebooks.py # papermill finds the training runs in the cache

# One thread each: they share the cores, and threads that wait for a core cost four times as much.
test test-code test-training test-reading: export OMP_NUM_THREADS = 1
# The notebooks in two parts that take equally long; one holds those that train most.
TRAINING := $(wildcard notebooks/0[134568]_*.ipynb)
NBVAL := -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=900
test-code:
	$(BIN)/python -m pytest tests --ignore tests/test_notebooks.py
test-training:
	$(BIN)/python $(NBVAL) $(TRAINING)
test-reading:
	$(BIN)/python $(NBVAL) $(filter-out $(TRAINING),$(wildcard notebooks/*.ipynb))

attack: .venv/installed ## set up, then try 1,600 bad inputs and count what comes of them
	$(BIN)/python tests/attacks.py

kills: .venv/installed ## set up, then kill a study 20 times and compare what it ends with
	$(BIN)/python tests/kills.py

report: .venv/installed ## set up, then build a site of all notebooks and verdicts: report/index.html
	$(BIN)/proxylib report

report-check: report ## the same, then open every page in headless Chromium, on a desktop and a phone
	$(BIN)/python tests/report_check.py report

student: .venv/installed ## write the notebooks without solutions and outputs into student/
	$(BIN)/proxylib student

lab: .venv/installed ## set up, then open JupyterLab
	$(BIN)/jupyter lab notebooks

notebooks: .venv/installed ## execute the committed notebooks in place
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False notebooks/*.ipynb

# Versions, not hashes: torch comes in several files of one version (CPU, CUDA), from several indexes.
lock: ## pin exact versions for every platform (needs uv); keeps what is pinned already
	uv pip compile --quiet --universal --no-annotate --custom-compile-command "make lock" \
		--extra study --extra test pyproject.toml -o requirements.lock

clean: ## remove the environment and the caches; your figures stay
	rm -rf .venv data/cache

# A new .venv if there is none or if it is of another Python than $(PYTHON).
version := import sys; print(sys.version_info[:2])
.venv/installed: requirements.lock pyproject.toml $(if $(shell \
		test "`$(PYTHON) -c '$(version)' 2>&1`" = "`$(BIN)/python -c '$(version)' 2>&1`" || echo new),fresh)
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -e .
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib || true # what pip does, but on all cores
	@touch $@

.PHONY: fresh
fresh:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "needs Python 3.11 or newer, $(PYTHON) is not: PYTHON=python3.12 make ..."; exit 1; }
	$(PYTHON) -m venv --clear .venv
