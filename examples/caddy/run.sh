#!/bin/sh
# Runs the example from a clone, on Debian or Ubuntu:
#   examples/caddy/run.sh
# HEADGATE_BIN names a headgate to use instead of building one.
set -eu
. "$(dirname "$0")/../stage/run.sh"
need caddy
run_go caddy "$@"
