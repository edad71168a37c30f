# What the run.sh of all examples have in common: each reads this file first,
# which takes it to the root of the clone.
case ${HEADGATE_BIN:-/} in
/*) ;;
*) HEADGATE_BIN=$PWD/$HEADGATE_BIN ;;
esac
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/usr/local/go/bin # where servers and Go are, and a plain user's PATH often is not

# need installs the Debian packages of programs that are missing, as root:
#   need PROGRAM[:PACKAGE]...
need() {
	missing=
	for program; do
		command -v "${program%:*}" >/dev/null || missing="$missing ${program#*:}"
	done
	[ -n "$missing" ] || return 0
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "missing:$missing. As root: apt-get update && apt-get install -y --no-install-recommends$missing" >&2
		exit 1
	fi
	apt-get update
	# shellcheck disable=SC2086 # a list of words
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
}

need_go() {
	command -v go >/dev/null && return
	echo "missing: Go 1.26 (https://go.dev/dl)" >&2
	exit 1
}

# install_npm installs what the lockfiles of directories say. What is there
# already by them stays: the tests of other packages may use it now.
install_npm() {
	for dir; do
		[ "$dir/node_modules/.package-lock.json" -nt "$dir/package-lock.json" ] && continue
		(cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
	done
}

# need_headgate builds one unless HEADGATE_BIN names one.
need_headgate() {
	[ -z "${HEADGATE_BIN:-}" ] || return 0
	need_go
	HEADGATE_BIN=$PWD/bin/headgate
	go build -o "$HEADGATE_BIN" ./server/cmd/headgate
}

# run_go runs an example in Go.
run_go() {
	need_go
	need_headgate
	example=$1
	shift
	exec go run "./examples/$example" -headgate "$HEADGATE_BIN" "$@"
}
