"""The `sandbox` command with the service's commands: what the package installs.

The library's own commands know nothing of these. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

from sandbox.cli.main import main
from workers import commands, operations
from workers.api import commands as api
from workers.chat import commands as chat
from workers.embedded import commands as embedded
from workers.gating import commands as gating

ALL = (
    *commands.COMMANDS,
    *embedded.COMMANDS,
    *operations.COMMANDS,
    *api.COMMANDS,
    *gating.COMMANDS,
    chat.chat,
)
for command in ALL:
    main.add_command(command)

if __name__ == "__main__":
    main()
