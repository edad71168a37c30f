#!/bin/sh
# Runs the example from a clone, on Debian or Ubuntu:
#   examples/pm2/run.sh
# HEADGATE_BIN names a headgate to use instead of building one.
set -eu
. "$(dirname "$0")/../stage/run.sh"
need nginx:nginx-light redis-server node:nodejs npm
install_npm clients/node examples/pm2
run_go pm2 "$@"
