#!/bin/sh
# Runs the example from a clone, on Debian or Ubuntu:
#   examples/haproxy/run.sh
# HEADGATE_BIN names a headgate to use instead of building one.
set -eu
. "$(dirname "$0")/../stage/run.sh"
need haproxy
run_go haproxy "$@"
