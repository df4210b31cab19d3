"""One set of verbs for every hypervisor and every store: what contract tests ask."""
