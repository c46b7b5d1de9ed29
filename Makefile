# The commands of the project. Each sets up what it needs; see README.md.
.PHONY: demo dev test lint resolve clean

# On a machine with a GPU: make demo EXTRAS=gpu (CUDA 12) or EXTRAS=gpu-cu13.
EXTRAS ?= cpu

demo:  ## make tar shards of real photographs and curate them through Dagster
	./setup.sh $(EXTRAS),demo
	.venv/bin/image-curation demo .demo

dev: export DAGSTER_HOME ?= $(CURDIR)/.demo/dagster
dev: export IMAGE_CURATION_SOURCE ?= $(CURDIR)/.demo/raw
dev: export IMAGE_CURATION_ROOT ?= $(CURDIR)/.demo/curated
dev:  ## open the Dagster UI on the same project
	./setup.sh $(EXTRAS),demo
	mkdir -p "$$DAGSTER_HOME"
	test -e "$$DAGSTER_HOME/dagster.yaml" || cp dagster.yaml "$$DAGSTER_HOME/"
	.venv/bin/dagster dev

test: lint  ## lint, types, import rules, the wheel, all tests
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q

lint:  ## what a linter and a type checker see
	./setup.sh $(EXTRAS),demo,dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy image_curation resources assets
	.venv/bin/lint-imports

resolve:  ## check that every set of pins still fits together
	./setup.sh $(EXTRAS),demo,dev
	./constraints/check.sh

clean:  ## remove the virtual environment and the demo
	rm -rf .venv .demo dist build
