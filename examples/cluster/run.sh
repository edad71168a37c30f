#!/bin/sh
# Runs the example from a clone, on Debian or Ubuntu:
#   examples/cluster/run.sh
# HEADGATE_BIN names a headgate to use instead of building one.
set -eu
. "$(dirname "$0")/../stage/run.sh"
need nginx:nginx-light redis-server
run_go cluster "$@"
