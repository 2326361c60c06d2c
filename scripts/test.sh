#!/usr/bin/env bash
# Runs the test suites, all of them even if one fails, and ends with a table of times. Two lanes, for two processors: the
# end-to-end tests, which wait for Docker most of the time, run beside all others; their output comes last.
#
#   scripts/test.sh                all of them
#   scripts/test.sh unit docs      only these
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

SUITES=(check unit contract simulation integration docs endtoend)
[ $# -eq 0 ] || SUITES=("$@")
export COLUMNS=${COLUMNS:-120}

# Root is asked for only where a test needs it.
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -E "$@"; fi; }

check() {
    local failed=0
    for command in "ruff check ." "ruff format --check ." mypy "mypy scripts" lint-imports; do
        printf '$ %s\n' "$command"
        # shellcheck disable=SC2086 # the words are meant
        .venv/bin/$command </dev/null || failed=1
    done
    return $failed
}

# The stand-in images are made once (a minute), whichever suite needs them first.
standins() { as_root flock .cache/standins.lock .venv/bin/python scripts/images.py --archive </dev/null; }

suite() {
    case "$1" in
        check) check ;;
        docs | endtoend) standins && as_root .venv/bin/python -m pytest "tests/$1" </dev/null ;;
        contract | integration) as_root .venv/bin/python -m pytest "tests/$1" </dev/null ;;
        *) .venv/bin/python -m pytest "tests/$1" </dev/null ;;
    esac
}

# Runs one suite with a head and a foot, and keeps its line for the table in .cache/<suite>.verdict.
run() {
    local start=$SECONDS verdict=FAILED
    printf '\n==== %s ====\n' "$1"
    if suite "$1"; then verdict=passed; fi
    printf '%-12s %-7s %4d s' "$1" $verdict $((SECONDS - start)) >".cache/$1.verdict"
    printf '==== %s ====\n' "$(cat ".cache/$1.verdict")"
}

mkdir -p .cache
rm -f .cache/*.verdict
lane() { for name in "$@"; do run "$name"; done; }
here=() beside=()
for name in "${SUITES[@]}"; do
    case "$name" in
        endtoend) beside+=("$name") ;;
        *) here+=("$name") ;;
    esac
done
if [ ${#here[@]} -gt 0 ] && [ ${#beside[@]} -gt 0 ]; then
    lane "${beside[@]}" >.cache/beside.log 2>&1 &
    lane "${here[@]}"
    wait $!
    cat .cache/beside.log
else
    lane "${SUITES[@]}"
fi

printf '\n'
failed=0
for name in "${SUITES[@]}"; do
    cat ".cache/$name.verdict" && printf '\n'
    grep -q passed ".cache/$name.verdict" || failed=1
done
printf '%-12s %-7s %4d s\n' all "$([ $failed = 0 ] && echo passed || echo FAILED)" "$SECONDS"
exit $failed
