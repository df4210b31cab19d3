"""The `sandbox` command with the service's commands: what the package installs.

The library's own commands know nothing of these. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

from sandbox.cli import main
from workers import commands, operations
from workers.embedded import commands as embedded

for command in (*commands.COMMANDS, *embedded.COMMANDS, *operations.COMMANDS):
    main.add_command(command)

if __name__ == "__main__":
    main()
