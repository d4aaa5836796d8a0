# Needs python3 (3.10 or newer, with venv) and make; everything else goes into .venv on first use.
# Arguments for a command: make demo ARGS=--local, make test ARGS='-k wheels -x', make bench ARGS=--gate.
# Another interpreter: make PYTHON=python3.12 test.
#
#   demo        run examples/quickstart.py; ARGS=--local: with a real model on the CPU
#   test        all tests but the slow ones; COVERAGE=1: with a report of branch coverage
#   lint        format, lint, types, layers, changelog fragments: everything that can be checked without running;
#               ARGS=--fix: rewrite the code as the first two want it, then check
#   bench       cost per event on the caller's thread, side by side with alternatives
#   soak        bounds on memory and threads over a long run
#   docs        render the site into site/, generated pages included
#   compat      oldest and newest frameworks on Python 3.10 and 3.13
#   build       wheels and sdists into dist/, each installed and imported on its own
#   changelog   VERSION=0.2.0: move the fragments of changelog.d/ into CHANGELOG.md
#   integration NAME=llama-index: an adapter for another framework, from a template (docs/adding-a-framework.md)
#   install     only make .venv
#   clean       remove what these targets made

.PHONY: demo test lint bench soak docs compat build changelog integration install clean
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := install

PYTHON ?= python3
ARGS ?=
RUN := .venv/bin/python -m
READY := .venv/.ready
PROJECTS := $(wildcard packages/*/pyproject.toml integrations/*/pyproject.toml)

$(READY): constraints.txt tools/setup_venv.py $(PROJECTS)
	@$(PYTHON) tools/setup_venv.py .venv constraints.txt
	@touch $@

.venv/.ready-local: $(READY) constraints-local.txt
	@$(PYTHON) tools/setup_venv.py .venv constraints-local.txt
	@touch $@

install: $(READY)

demo: $(READY) $(if $(findstring --local,$(ARGS)),.venv/.ready-local)
	@.venv/bin/python examples/quickstart.py $(ARGS)

test: $(READY)
	$(if $(COVERAGE),$(RUN) coverage erase)
	$(RUN) $(if $(COVERAGE),coverage run -m) pytest $(ARGS)
	$(if $(COVERAGE),$(RUN) coverage combine --quiet && $(RUN) coverage report)

lint: $(READY)
	$(if $(findstring --fix,$(ARGS)),$(RUN) ruff check --fix-only --exit-zero . && $(RUN) ruff format .)
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	.venv/bin/lint-imports
	$(RUN) towncrier build --draft --version next >/dev/null

bench: $(READY)
	$(RUN) benchmarks.run $(ARGS)

soak: $(READY)
	$(RUN) pytest -m soak $(ARGS)

docs: $(READY)
	.venv/bin/python tools/generate_docs.py
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict --quiet

compat: $(READY)
	.venv/bin/python tools/compat.py $(ARGS)

build: $(READY)
	@rm -rf dist
	@for project in $(PROJECTS); do \
	  $(RUN) build --no-isolation --outdir dist "$$(dirname "$$project")" >/dev/null || exit 1; \
	done
	@ls dist
	$(RUN) pytest -m wheels $(ARGS)

changelog: $(READY)
	$(RUN) towncrier build --yes --version $(or $(VERSION),$(error which version? make changelog VERSION=0.2.0))

integration: $(READY)
	@.venv/bin/python tools/new_integration.py "$(or $(NAME),$(error which framework? make integration NAME=llama-index))"

clean:
	rm -rf .venv .venv-* dist site .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
