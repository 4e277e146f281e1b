# Every target makes its own virtual environment first; `make book` and `make test` are all that a
# fresh machine needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
MAIN := --method plain --method long --method tune --method ke --method dnr

.PHONY: book book-only book-full notebooks test test-slow bench lint format clean

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

book: $(READY)  ## train the main study into runs/, compare it with the published one, build the book
	$(BIN)/dnr study --dataset digits $(MAIN) --seeds 5
	$(BIN)/dnr book

book-only: $(READY)  ## build the book from the records on disk
	$(BIN)/dnr book

book-full: $(READY)  ## retrain everything that is published, into runs/, and build the book
	$(BIN)/python -m tests.publish
	$(BIN)/dnr book

notebooks: $(READY)  ## execute the committed notebooks again, on the published records alone
	export DNRLIB_RUNS=$$(mktemp -d); ls notebooks/*.ipynb | xargs -P 2 -n 1 \
	  $(BIN)/jupyter nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.record_timing=False

test: $(READY)  ## tests and notebooks, minutes
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow"
	DNRLIB_RUNS=$$(mktemp -d) $(BIN)/python -m pytest --nbval --nbval-current-env \
	  --nbval-cell-timeout 300 -p no:cacheprovider -n 2 --dist loadfile notebooks

test-slow: $(READY)  ## slow tests, and the mutants that the suite must catch
	$(BIN)/python -m pytest -n 2 --dist loadscope -m slow
	$(BIN)/python tests/mutations.py

bench: $(READY)  ## measure this machine, which should do nothing else, into benchmarks/results
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.generation
	$(BIN)/python -m benchmarks.summary

lint: $(READY)  ## what CI checks of the style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf _build book/pages .pytest_cache .ruff_cache
