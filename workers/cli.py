"""The `sandbox` command with the service's commands: what the package installs.

The library's own commands know nothing of these. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

from sandbox.cli.main import main
from workers.commands import api, chat, operations, service
from workers.commands import gate as gating
from workers.commands import standalone as embedded

ALL = (
    *service.COMMANDS,
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
