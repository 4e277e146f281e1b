# Every target makes its own virtual environment first; `make book` and `make test` are all that a
# fresh machine needs. With CPU=1 it has a torch without CUDA, which is much smaller.

PYTHON ?= python3
CHROMIUM ?= chromium
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
MAIN := --method plain --method long --method tune --method ke --method dnr
# Tests hold for a CPU, also where there is a GPU; those of CUDA name it.
PYTEST := DNRLIB_DEVICE=cpu $(BIN)/python -m pytest
FAST := $(PYTEST) -n 2 --dist loadscope -m "not slow"
# What torch and oneDNN may use at most, and what a processor must have for it.
LEVELS := default:SSE41:sse4_1 default:AVX:avx avx2:AVX2:avx2 avx512:AVX512_CORE:avx512_dq \
  avx512:AVX512_CORE_BF16:avx512_bf16

.PHONY: install book book-only book-full cluster pdf notebooks test test-portable test-slow test-browser bench \
  lint format clean

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
ifdef CPU
	PATH=$(CURDIR)/$(BIN):$$PATH binder/postBuild
else
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
endif
	touch $@

install: $(READY)  ## the environment alone

cluster: $(READY)  ## what a cluster needs: Snakemake, which submits jobs
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.txt \
	  --no-build-isolation -e '.[cluster]'

book: $(READY)  ## train the main study into runs/, compare it with the published one, build the book
	$(BIN)/dnr study --dataset digits $(MAIN) --seeds 5
	$(BIN)/dnr book

book-only: $(READY)  ## build the book from the records on disk
	$(BIN)/dnr book

book-full: $(READY)  ## retrain everything that is published, into runs/, and build the book
	$(BIN)/python -m tests.publish
	$(BIN)/dnr book

# A builder of Sphinx writes one page; moved to the top of its folder, it finds its pictures. Chromium
# prints it as it is shown, with its maths and figures.
PRINT := --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking \
  --disable-component-update --disable-sync --virtual-time-budget=120000 --no-pdf-header-footer \
  --generate-pdf-document-outline
pdf: book-only  ## the whole book as one file, _build/dnrlib.pdf; needs Chromium
	$(BIN)/jupyter-book build book --config _config.yml --path-output . -W -n --keep-going \
	  --builder custom --custom-builder singlehtml
	cd _build/singlehtml; page=$$(sed -n 's/.*Refresh.*url=\([^"]*\)".*/\1/p' index.html); \
	  sed "s|href=\"$$page#|href=\"#|g" $${page:-index.html} > book.html
	$(CHROMIUM) $(PRINT) --user-data-dir=$$(mktemp -d) --print-to-pdf=_build/dnrlib.pdf \
	  file://$(CURDIR)/_build/singlehtml/book.html

notebooks: $(READY)  ## execute the committed notebooks again, on the published records alone
	export DNRLIB_DEVICE=cpu DNRLIB_RUNS=$$(mktemp -d); ls notebooks/*.ipynb | xargs -P 2 -n 1 \
	  $(BIN)/jupyter nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.record_timing=False

test: $(READY)  ## tests and notebooks, minutes
	$(FAST)
	DNRLIB_RUNS=$$(mktemp -d) $(PYTEST) --nbval --nbval-current-env \
	  --nbval-cell-timeout 300 -p no:cacheprovider -n 2 --dist loadfile notebooks

test-portable: $(READY)  ## the fast tests with the rounding of older processors
	for level in $(LEVELS); do \
	  IFS=:; set -- $$level; unset IFS; \
	  $(BIN)/python -c "import torch; exit(not torch.cpu.get_capabilities().get('$$3'))" \
	    || { echo "not run: $$2, for this processor has no $$3"; continue; }; \
	  ATEN_CPU_CAPABILITY=$$1 ONEDNN_MAX_CPU_ISA=$$2 $(FAST) || exit; \
	done

# Those of the cluster wait most of the time, so that there is work for one process more.
test-slow: $(READY)  ## slow tests, and the mistakes that the suite must notice
	$(PYTEST) -n 3 -m slow
	DNRLIB_DEVICE=cpu $(BIN)/python -m tests.mistakes

test-browser:  ## walk every page of the built book in Chromium; needs npm, and Node 20 or later
	cd tests/browser && npm ci --no-audit --no-fund
	CHROMIUM=$$(command -v $(CHROMIUM)) node tests/browser/check.mjs _build/html

bench: $(READY)  ## measure this machine, which should do nothing else, into benchmarks/results
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.generation
	$(BIN)/python -m benchmarks.summary

lint: $(READY)  ## what CI checks of the style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf _build book/pages .pytest_cache .ruff_cache
