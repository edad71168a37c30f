#!/bin/sh
# Runs the example from a clone:
#   examples/gateway/run.sh
# HEADGATE_BIN names a headgate to use instead of building one.
set -eu
. "$(dirname "$0")/../stage/run.sh"
need node:nodejs npm
need_headgate
install_npm examples/gateway
exec node examples/gateway/demo.mjs "$HEADGATE_BIN"
