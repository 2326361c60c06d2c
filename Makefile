# `make help` lists the targets. The work is done in scripts/, which run by hand, too.
.DEFAULT_GOAL := help
.PHONY: help setup images run test drill drill-long check man clean
SHELL := /bin/bash
ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)
MINIORCH := $(ROOT) .venv/bin/miniorch
PAGE := http://127.0.0.1:5000/

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

setup: ## installs what is missing (Docker, nftables, HAProxy, .venv), and only that
	@scripts/setup.sh

images: setup ## the public images of dockchat, or stand-ins where no Docker registry answers
	@$(ROOT) .venv/bin/python scripts/images.py

run: images ## sets up, starts dockchat, and ends when its page answers
	@$(MINIORCH) run examples/dockchat.yml
	@.venv/bin/python scripts/smoke.py $(PAGE)
	@echo "to type miniorch as above: alias miniorch='$(strip $(ROOT) $(CURDIR)/.venv/bin/miniorch)'"

test: ## sets up, then runs all tests; SUITES="unit docs" runs only these
	@scripts/setup.sh --tests
	@scripts/test.sh $(SUITES)

drill: ## what takes hours: 100,000 app files, 500 kills of an etcd, 200 simulated clusters, a lab under fire; PARTS="files lab" runs only these
	@scripts/setup.sh --tests
	@scripts/drill.sh $(PARTS)

drill-long: setup ## a night: 10,000 simulated clusters; FIRST=10000 takes the next ones
	@SEEDS=10000 scripts/drill.sh seeds

check: setup ## ruff, mypy strict, import-linter
	@scripts/test.sh check

man: setup ## writes the man pages to .cache/man; then: man -l .cache/man/miniorch.1
	@.venv/bin/python scripts/reference.py man .cache/man

clean: ## removes all that miniorch made on this machine; YES=1 does not ask, ALL=1 takes images and .venv, too
	@if [ -x .venv/bin/miniorch ]; then $(MINIORCH) down --all --volumes $(if $(YES),--yes); fi
ifdef ALL
	@if [ -x .venv/bin/python ]; then $(ROOT) .venv/bin/python scripts/images.py --remove; fi
	@rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
endif
