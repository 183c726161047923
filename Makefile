# Each target sets up what it needs in .venv, once; pyproject.toml or constraints.txt newer than the
# stamp files sets it up again. Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test lint docs dist lock

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile

demo: .venv/stamp-run ## synthesize digits that ship with scikit-learn, and say where the pictures are
	$(BIN)/sfumato demo

test: .venv/stamp-test ## run the tests
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: .venv/stamp-dev ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: .venv/stamp-docs ## build the site into site/, with every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

dist: .venv/stamp-test ## build sdist and wheel into dist/
	$(BIN)/python -m build --no-isolation

lock: ## write constraints.txt anew (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 --no-python-downloads \
		--upgrade --prerelease disallow --no-annotate --custom-compile-command "make lock" --output-file constraints.txt

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/stamp-run: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable .
	@touch $@

.venv/stamp-%: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[$*]'
	@touch $@
