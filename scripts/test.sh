#!/usr/bin/env bash
# Runs the test suites one after another, all of them even if one fails, and ends with a table of times.
#
#   scripts/test.sh                all of them
#   scripts/test.sh unit docs      only these
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

SUITES=(check unit contract simulation integration docs)
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

suite() {
    case "$1" in
        check) check ;;
        contract | integration | docs) as_root .venv/bin/python -m pytest "tests/$1" </dev/null ;;
        *) .venv/bin/python -m pytest "tests/$1" </dev/null ;;
    esac
}

failed=0
table=()
for name in "${SUITES[@]}"; do
    printf '\n==== %s ====\n' "$name"
    start=$SECONDS
    if suite "$name"; then verdict=passed; else verdict=FAILED failed=1; fi
    table+=("$(printf '%-12s %-7s %4d s' "$name" "$verdict" $((SECONDS - start)))")
    printf '==== %s ====\n' "${table[-1]}"
done

printf '\n'
printf '%s\n' "${table[@]}"
printf '%-12s %-7s %4d s\n' all "$([ $failed = 0 ] && echo passed || echo FAILED)" "$SECONDS"
exit $failed
