"""Which circle of tests this is: `make test` runs a few of what `make test-all` runs in full."""

from __future__ import annotations

import os

WIDE = os.environ.get("TEST_CIRCLE", "all") == "all"  # also when pytest is called by hand
