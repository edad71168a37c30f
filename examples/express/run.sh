#!/bin/sh
# Runs the example from a clone:
#   examples/express/run.sh
# HEADGATE_BIN names a headgate to use instead of building one.
set -eu
case ${HEADGATE_BIN:-/} in
/*) ;;
*) HEADGATE_BIN=$PWD/$HEADGATE_BIN ;;
esac
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/local/go/bin # where Go is, and a plain user's PATH often is not

missing=
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
if [ -z "${HEADGATE_BIN:-}" ]; then
	if ! command -v go >/dev/null; then
		echo "missing: Go 1.26 (https://go.dev/dl)" >&2
		exit 1
	fi
	HEADGATE_BIN=$PWD/bin/headgate
	go build -o "$HEADGATE_BIN" ./server/cmd/headgate
fi
# What is there already by the lockfile stays: the tests of other packages may use it now.
for dir in clients/node examples/express; do
	[ "$dir/node_modules/.package-lock.json" -nt "$dir/package-lock.json" ] && continue
	(cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
done
exec node examples/express/demo.mjs "$HEADGATE_BIN"
