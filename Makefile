# Upgrade Sandbox: what a person runs. All of it as root on Debian 12 or 13.
.PHONY: help setup demo clean-demo xen-lab lint test test-qemu test-xen test-xen-apart bench picture
.DEFAULT_GOAL := help
BIN := .venv/bin

help: ## these lines
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)$$/make \1\t\2/p' Makefile | expand -t 20

setup: ## install what is needed, start libvirt, make .venv
	@.ci/setup

demo: setup ## build and start web01, rehearse an upgrade that works and one that does not
	@$(BIN)/sandbox demo run

clean-demo: setup ## remove web01 and its network; the cached image stays
	@$(BIN)/sandbox demo down

xen-lab: setup ## build and start a Xen host inside QEMU, to try rehearsals on Xen
	@$(BIN)/sandbox lab up

lint: setup ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two halves side by side: most of the time one emulated guest keeps one core busy.
test: ## everything: style, types, then all tests, with real guests on QEMU and on Xen
	@.ci/setup --with-tests
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory --jobs=2 --keep-going test-qemu test-xen-apart

test-qemu: ## unit and contract tests, real guests on QEMU, benchmarks
	$(BIN)/pytest tests/unit tests/contract tests/vm tests/benchmarks \
	  --ignore=tests/benchmarks/test_rehearsal_overhead.py \
	  --ignore=tests/benchmarks/test_xen_clone.py

test-xen: ## rehearsals on Xen (in the lab); then runs that are killed in every phase, on QEMU
	TEST_PRODUCTION=sbtest02 $(BIN)/pytest tests/xen tests/faults

# The two halves' lines would mix: this one's are shown when it has ended.
test-xen-apart:
	@log=$$(mktemp); $(MAKE) --no-print-directory test-xen >"$$log" 2>&1; status=$$?; \
	  cat "$$log"; rm -f "$$log"; exit "$$status"

# Apart from `test`: it upgrades the same guest twice, and wants a machine with nothing else to do.
bench: ## all benchmarks, with a whole rehearsal against the same by hand
	@.ci/setup --with-tests
	$(BIN)/pytest tests/benchmarks -s

picture: ## make the README's pictures again from a real run
	@.ci/setup --with-browser
	@$(BIN)/python -m sandbox.demo.picture
