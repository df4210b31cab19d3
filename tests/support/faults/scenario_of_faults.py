"""A whole rehearsal that costs little."""

PACKAGE = "sbtest-extra"
SCENARIO = f"""
upgrade: {{what: packages, packages: [{PACKAGE}]}}
reboot: always
checks: {{shared: []}}
"""
