#!/bin/sh
# Runs the example from a clone, on Debian or Ubuntu:
#   examples/nginx/run.sh [-duration 10s]
# HEADGATE_BIN names a headgate to use instead of building one.
set -eu
. "$(dirname "$0")/../stage/run.sh"
need nginx:nginx-light wrk
run_go nginx "$@"
