#!/bin/sh
# Runs the example from a clone, on Debian or Ubuntu:
#   examples/pm2/run.sh
# HEADGATE_BIN names a headgate to use instead of building one.
set -eu
case ${HEADGATE_BIN:-/} in
/*) ;;
*) HEADGATE_BIN=$PWD/$HEADGATE_BIN ;;
esac
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/usr/local/go/bin # where nginx and Go are, and a plain user's PATH often is not

missing=
command -v nginx >/dev/null || missing="$missing nginx-light"
command -v redis-server >/dev/null || missing="$missing redis-server"
command -v node >/dev/null || missing="$missing nodejs"
command -v npm >/dev/null || missing="$missing npm"
if [ -n "$missing" ]; then
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "missing:$missing. As root: apt-get update && apt-get install -y --no-install-recommends$missing" >&2
		exit 1
	fi
	apt-get update
	# shellcheck disable=SC2086 # a list of words
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
fi
if ! command -v go >/dev/null; then
	echo "missing: Go 1.26 (https://go.dev/dl)" >&2
	exit 1
fi
for dir in clients/node examples/pm2; do
	[ "$dir/node_modules/.package-lock.json" -nt "$dir/package-lock.json" ] ||
		(cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
done

if [ -z "${HEADGATE_BIN:-}" ]; then
	HEADGATE_BIN=bin/headgate
	go build -o "$HEADGATE_BIN" ./server/cmd/headgate
fi
exec go run ./examples/pm2 -headgate "$HEADGATE_BIN" "$@"
