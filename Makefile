# Upgrade Sandbox: what a person runs. All of it as root on Debian 12 or 13.
.PHONY: help setup demo clean-demo xen-lab up secrets image lint
.PHONY: test test-unit test-xen test-vm test-faults bench picture
.PHONY: test-lint test-restart test-service test-chaos test-contract test-promise test-bench corpus
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

# A guest keeps one of two cores busy, so two parts at a time that boot guests, and beside them one
# that boots none. Each has a production of its own. A part that fails keeps none from its turn.
test: ## everything: style, types, then all tests, with real guests on QEMU and on Xen
	@.ci/setup --with-tests
	@failed=$$(mktemp) || exit; \
	  $(MAKE) --no-print-directory --jobs=2 FAILED="$$failed" lane-guests lane-others || \
	    echo make >>"$$failed"; \
	  said=$$(cat "$$failed"); rm -f "$$failed"; \
	  if [ -n "$$said" ]; then echo "failed:" $$said; exit 1; else echo "all tests passed"; fi

GUESTS := xen restart faults vm service promise bench
OTHERS := unit contract chaos
part-faults part-vm part-service part-promise part-bench: | part-restart

# With its own number of jobs; a make that knows of ours would not have that.
LANE = @env -u MAKEFLAGS make --no-print-directory FAILED="$(FAILED)"
.PHONY: lane-guests lane-others
lane-guests:
	$(LANE) --jobs=2 $(GUESTS:%=part-%)
lane-others:
	$(LANE) part-lint $(OTHERS:%=part-%)

# While libvirtd is restarted nobody else may ask it.
part-restart part-contract: HOW = flock "$(FAILED)"

# Their lines would mix: each is shown as a whole when it has ended.
.PHONY: part-lint $(GUESTS:%=part-%) $(OTHERS:%=part-%)
part-lint $(GUESTS:%=part-%) $(OTHERS:%=part-%): part-%:
	@echo "make test-$*: begun"; log=$$(mktemp); began=$$(date +%s); \
	  $(HOW) $(MAKE) --no-print-directory test-$* >"$$log" 2>&1 || echo "test-$*" >>"$(FAILED)"; \
	  cat "$$log"; rm -f "$$log"; \
	  echo "make test-$*: ended after $$((($$(date +%s) - began) / 60)) min"

test-lint: lint

test-unit: ## unit tests
	$(BIN)/pytest tests/unit

test-contract: ## one suite for every implementation; the service, its API and web; a real browser
	$(BIN)/pytest tests/contract

test-xen: ## rehearsals on Xen: in the lab, or on the host that SANDBOX_XEN_URI names
	$(BIN)/pytest tests/xen $(XEN_TESTS)

test-vm: ## rehearsals on QEMU
	$(BIN)/pytest tests/vm \
	  --ignore=tests/vm/test_demo_run.py --ignore=tests/vm/test_bad_input.py \
	  --ignore=tests/vm/test_isolation.py --ignore=tests/vm/test_untouched.py \
	  --ignore=tests/vm/test_preflight_reads.py

test-bench: ## the shorter benchmarks: `make bench` has all
	$(BIN)/pytest tests/benchmarks -k "not 100000" \
	  --ignore=tests/benchmarks/test_rehearsal_overhead.py \
	  '--ignore-glob=tests/benchmarks/test_xen_*.py' \
	  --ignore=tests/benchmarks/test_service_fleet.py \
	  --ignore=tests/benchmarks/test_chat_answers.py --ignore=tests/benchmarks/test_api_watchers.py

test-promise: ## the source is untouched, its clone alone; preflight only reads
	TEST_PRODUCTION=sbtest03 $(BIN)/pytest tests/vm/test_isolation.py tests/vm/test_untouched.py \
	  tests/vm/test_preflight_reads.py

test-faults: ## runs that are killed in every phase, the demo
	TEST_PRODUCTION=sbtest02 $(BIN)/pytest tests/faults tests/vm/test_demo_run.py \
	  --ignore-glob='*/test_chaos_*.py' --ignore=tests/faults/test_service_on_qemu.py \
	  --ignore=tests/faults/test_libvirtd_restart.py

test-restart: ## libvirtd is restarted in mid-rehearsal
	TEST_PRODUCTION=sbtest02 $(BIN)/pytest tests/faults/test_libvirtd_restart.py

test-service: ## workers are killed in mid-rehearsal; bad input
	TEST_PRODUCTION=sbtest04 $(BIN)/pytest tests/faults/test_service_on_qemu.py \
	  tests/vm/test_bad_input.py

test-chaos: ## the service under kill -9, lost servers, double messages: CHAOS_SEED=N repeats one
	$(BIN)/pytest tests/faults/test_chaos_*.py

# PVH and HVM need nested virtualisation, which QEMU emulates slowly and not always; further kinds
# of files cost three more boots: `make test-xen` runs them, here and on a host of your own; they do
# not decide on every commit.
part-xen: export XEN_TESTS = --ignore=tests/xen/test_xen_types.py \
  --ignore=tests/xen/test_xen_files.py

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
