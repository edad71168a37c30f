#!/bin/sh
# Runs the example from a clone:
#   examples/express/run.sh
# HEADGATE_BIN names a headgate to use instead of building one.
set -eu
. "$(dirname "$0")/../stage/run.sh"
need node:nodejs npm
need_headgate
install_npm clients/node examples/express
exec node examples/express/demo.mjs "$HEADGATE_BIN"
