#!/bin/sh
# Runs every fuzz target of the repository whose name has the PATTERN, JOBS of
# them at once, each with one worker.
# usage: scripts/fuzz.sh TIME [JOBS [PATTERN]]
set -eu
cd "$(dirname "$0")/.."
time=$1 jobs=${2:-1} pattern=${3:-.}

for file in $(git ls-files --cached --others --exclude-standard '*_test.go'); do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		echo "$(dirname "$file") $target"
	done
done | grep -E "$pattern" | xargs -P "$jobs" -L 1 sh -c '
	cd "$1"
	out=$(go test -run "^$" -fuzz "^$2\$" -fuzztime "$0" -parallel 1 . 2>&1) || { echo "$out"; echo "FAILED $1 $2"; exit 255; }
	echo "passed $1 $2: $(echo "$out" | grep "execs:" | tail -1)"
' "$time"
