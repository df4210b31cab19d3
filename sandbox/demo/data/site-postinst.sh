#!/bin/sh
set -e
# As many a real package does: a web server that refuses to start does not fail the upgrade.
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
    systemctl restart nginx.service || true
fi
