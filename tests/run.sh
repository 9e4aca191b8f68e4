#!/bin/sh
# Runs the test programs named on the command line and ends with one summary line over all of them.
# usage: tests/run.sh BUILD_FOLDER PROGRAM...   (from the project's root)
build=$1
shift
passed=0 failed=0 skipped=0 log=$(mktemp)
trap 'rm -f "$log"' EXIT
for t in "$@"; do
    start=$(date +%s)
    CMOCKA_MESSAGE_OUTPUT=TAP timeout "${TEST_TIMEOUT:-300}" "$build/tests/$t" >"$log" 2>&1
    code=$?
    ok=$(grep -c '^ok ' "$log")
    bad=$(grep -c '^not ok ' "$log")
    skip=$(grep -ciE '^(not )?ok .*# skip' "$log")
    ok=$((ok - $(grep -ciE '^ok .*# skip' "$log")))
    bad=$((bad - $(grep -ciE '^not ok .*# skip' "$log")))
    # A program that dies, or that runs no test, has failed even if it printed no "not ok".
    [ "$code" -ne 0 ] && [ "$bad" -eq 0 ] && bad=1
    [ "$code" -eq 0 ] && [ $((ok + bad + skip)) -eq 0 ] && bad=1
    printf '%-28s %3d passed' "$t" "$ok"
    [ "$skip" -gt 0 ] && printf ', %d skipped' "$skip"
    [ "$bad" -gt 0 ] && printf ', %d FAILED (exit %d)' "$bad" "$code"
    printf '  (%d s)\n' $(($(date +%s) - start))
    grep '^SKIPPED ' "$log" | sed 's/^/    /'
    [ "$bad" -gt 0 ] && sed 's/^/    | /' "$log"
    passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
