# Every target creates what it needs; what is there already costs nothing. `make` alone prints this list.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

BIN := .venv/bin
PY := $(BIN)/python
READY := .make/environment
SOURCES := library operator router worker tests benchmarks examples tools

.PHONY: help serve test test-cluster check format proto crds fuzz bench docs wheel images clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  make bench-NAME     run one of the benchmarks: $$(cd benchmarks && ls bench_*.py | sed 's/bench_//; s/\.py//; s/_/-/g' | xargs)"

serve: $(READY) ## install, serve a demo model, show a first answer, go on serving
	$(BIN)/modelmora serve examples/minilm.yaml --ask "A first question, and a first answer."

test: $(READY) ## install, pass the tests
	@tools/install-helm
	@tools/install-prometheus
	$(PY) -m pytest tests -m "not cluster" -n 3 $(ARGS)

# Side by side what disturbs nobody, then one after the other what disturbs everybody.
test-cluster: $(READY) ## the tests that need a Kubernetes, on the one that KUBECONFIG names
	@tools/install-helm
	$(PY) -m pytest tests -m "cluster and not disruptive" -n 4 $(ARGS)
	$(PY) -m pytest tests -m "cluster and disruptive" $(ARGS)

check: $(READY) ## format, lint, types, import contracts
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(READY) ## format the code, mend what the linter can mend
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

proto: $(READY) ## generate library/modelmora/v1 from protos/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PY) tools/generate_protos.py

crds: $(READY) ## generate crds/ and the references in docs/ from the code
	$(PY) tools/generate_crds.py
	$(PY) tools/generate_settings.py
	$(PY) tools/generate_metrics.py
	@tools/install-helm
	$(PY) tools/generate_install.py

fuzz: $(READY) ## 100,000 requests that are wrong in every way (ARGS="--cases N --seed N")
	$(PY) -m tools.fuzz $(ARGS)

bench: $(READY) ## run all benchmarks
	@for file in benchmarks/bench_*.py; do $(PY) "$$file"; done

bench-%: $(READY)
	$(PY) benchmarks/bench_$(subst -,_,$*).py $(ARGS)

images: ## build the images and put them on the nodes, by the command in MODELMORA_LOAD_IMAGE
	tools/load-images

docs: $(READY) ## build the documentation site in dist/docs
	$(BIN)/mkdocs build --strict --quiet

wheel: $(READY) ## build the wheel, install it alone, and see that client and CLI work without the extras
	tools/check-wheel

clean: ## remove what the targets created
	rm -rf .venv .make .modelmora dist benchmarks/results .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(READY): pyproject.toml tools/make-environment
	tools/make-environment
	@mkdir -p $(@D) && touch $@
