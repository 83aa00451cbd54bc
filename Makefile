# One command for each thing one does here; `make help` lists them.
# Everything runs in .venv, which the first target that needs it makes by itself.

PYTHON ?=
PY := .venv/bin/python
STAMP := .venv/.complete
TESTS ?= tests

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench docs clean

help: ## Show this list
	@echo "Usage: make TARGET. The first run downloads about 3.2 GB of Python packages into .venv."
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP) ## Start everything, send a chest CT phantom through it, show the results (STUDIES=DIR: your own DICOM files; DEMO_ONCE=1: verify and stop)
	@.venv/bin/fhir-ext demo $(if $(STUDIES),--studies "$(STUDIES)")

test: $(STAMP) ## Run all tests on real servers, which it starts itself (TESTS=tests/unit: only these)
	@echo "-- tests in: $(TESTS)$(if $(FHIR_EXT_REAL_DATA),, (FHIR_EXT_REAL_DATA is not set: the tests on real data are skipped))"
	@$(PY) -m pytest $(TESTS) $(PYTEST_ARGS)

lint: $(STAMP) ## Check style, types, import contracts and the documentation
	@echo "-- ruff check";      $(PY) -m ruff check .
	@echo "-- ruff format";     $(PY) -m ruff format --check .
	@echo "-- mypy --strict";   $(PY) -m mypy
	@echo "-- import contracts"; .venv/bin/lint-imports --no-cache
	@echo "-- documentation";   $(PY) tools/gen_settings_docs.py --check
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --site-dir .venv/site-check

bench: $(STAMP) ## Measure (BENCH=name: only bench/name.py); each ends with one line of JSON
	@set -e; for file in $(if $(BENCH),bench/$(BENCH).py,bench/*.py); do \
		test -f "$$file" || { echo "no such benchmark: $$file" >&2; exit 2; }; \
		echo "-- $$file"; $(PY) "$$file"; done

docs: $(STAMP) ## Build the documentation into site/
	@$(PY) tools/gen_settings_docs.py
	@$(PY) -m mkdocs build --strict
	@echo "-- open site/index.html"

clean: ## Delete what was built, caches and the demo's data; .venv stays
	rm -rf site dist build .run .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find fhir_ext operations subscriptions models tests bench tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(STAMP): requirements/bootstrap.txt requirements/dev.txt pyproject.toml tools/bootstrap
	@PYTHON="$(PYTHON)" tools/bootstrap
	@touch $@
