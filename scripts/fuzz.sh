#!/bin/sh
# Runs every fuzz target of the repository whose name has the PATTERN, JOBS of
# them at once, each with one worker.
# usage: scripts/fuzz.sh TIME [JOBS [PATTERN]]
set -eu
cd "$(dirname "$0")/.."
time=$1 jobs=${2:-1} pattern=${3:-.}

# A worker that is busy when the time is over fails with "context deadline
# exceeded" and nothing else: that is no finding. See golang/go issue 75804.
one='
	cd "$1"
	if out=$(go test -run "^$" -fuzz "^$2\$" -fuzztime "$0" -parallel 1 . 2>&1) ||
		{ echo "$out" | grep -q "^ *context deadline exceeded$" && ! echo "$out" | grep -q "Failing input\|panic:"; }; then
		echo "passed $1 $2: $(echo "$out" | grep "execs:" | tail -1)"
	else
		echo "$out"
		echo "FAILED $1 $2"
		exit 255
	fi
'
for file in $(git ls-files --cached --others --exclude-standard '*_test.go'); do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		echo "$(dirname "$file") $target"
	done
done | grep -E "$pattern" | xargs -P "$jobs" -L 1 sh -c "$one" "$time"
