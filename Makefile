# Upgrade Sandbox: what a person runs. All of it as root on Debian 12 or 13.
.PHONY: help setup demo clean-demo xen-lab up secrets image lint
.PHONY: quick test test-all bench corpus picture
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

up: setup ## run the whole service on this machine, without containers; Ctrl-C ends it
	@$(BIN)/sandbox up

secrets: ## passwords and a key for compose.yaml, in .secrets
	@.ci/secrets

image: ## build the service's image without Docker and try it, from this machine's Debian mirror
	@.ci/image

lint: setup ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

quick: ## style, types, unit tests, rules of the code: two minutes, needs the virtual environment only
	@.ci/setup --environment
	@$(BIN)/python -m tests.run quick

test: ## all that decides, on real guests on QEMU and on Xen; tests/parts.py says what
	@.ci/setup --with-tests
	@$(BIN)/python -m tests.run test

test-all: ## also the long half: every chaos cell 20 times, further Xen types, all benchmarks
	@.ci/setup --with-tests
	@$(BIN)/python -m tests.run all

# make test-xen, test-vm, …: one part as in test-all. On a host of your own, too: SANDBOX_XEN_URI.
test-%:
	@.ci/setup --with-tests
	$(BIN)/python -m tests.run $*

# Apart from `test`: it upgrades the same guest twice, and wants a machine with nothing else to do.
bench: ## all benchmarks, with a whole rehearsal against the same by hand
	@.ci/setup --with-tests
	$(BIN)/pytest tests/benchmarks -s

# Apart from `test`, too: an hour. CORPUS has options: make corpus CORPUS="--only 'mirror-*'"
corpus: ## upgrades of known outcome on real guests: how often the verdict is right
	@.ci/setup --with-tests
	$(BIN)/python -m tests.corpus.run $(CORPUS)

picture: ## make the README's pictures again from a real run, and an example of the web
	@.ci/setup --with-browser
	@$(BIN)/python -m sandbox.demo.picture
	@$(BIN)/python -m tests.contract.web_example
