# The commands of the project. Each sets up what it needs; see README.md.
.PHONY: demo dev test lint resolve clean

export DAGSTER_HOME ?= $(CURDIR)/.demo/dagster
export IMAGE_CURATION_SOURCE ?= $(CURDIR)/.demo/raw
export IMAGE_CURATION_ROOT ?= $(CURDIR)/.demo/curated

demo:  ## make tar shards of real photographs and curate them through Dagster
	./setup.sh cpu,demo
	.venv/bin/image-curation demo .demo

dev:  ## open the Dagster UI on the same project
	./setup.sh cpu,demo
	mkdir -p "$(DAGSTER_HOME)" && cp dagster.yaml "$(DAGSTER_HOME)/"
	.venv/bin/dagster dev

test: lint  ## lint, types, import rules, the wheel, all tests
	.venv/bin/python -m pytest -n 2 -q

lint:
	./setup.sh
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy image_curation resources assets
	.venv/bin/lint-imports

resolve:  ## check that every set of pins still fits together
	./setup.sh
	./constraints/check.sh

clean:
	rm -rf .venv .demo dist build
