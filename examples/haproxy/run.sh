#!/bin/sh
# Runs the example from a clone, on Debian or Ubuntu:
#   examples/haproxy/run.sh
# HEADGATE_BIN names a headgate to use instead of building one.
set -eu
case ${HEADGATE_BIN:-/} in
/*) ;;
*) HEADGATE_BIN=$PWD/$HEADGATE_BIN ;;
esac
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/usr/local/go/bin # where HAProxy and Go are, and a plain user's PATH often is not

if ! command -v haproxy >/dev/null; then
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "missing: haproxy. As root: apt-get update && apt-get install -y --no-install-recommends haproxy" >&2
		exit 1
	fi
	apt-get update
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends haproxy
fi
if ! command -v go >/dev/null; then
	echo "missing: Go 1.26 (https://go.dev/dl)" >&2
	exit 1
fi

if [ -z "${HEADGATE_BIN:-}" ]; then
	HEADGATE_BIN=bin/headgate
	go build -o "$HEADGATE_BIN" ./server/cmd/headgate
fi
exec go run ./examples/haproxy -headgate "$HEADGATE_BIN" "$@"
