#!/usr/bin/env bash
# What takes too long for every day. All parts run even if one fails; a failure prints how to see it again.
#
#   scripts/drill.sh               all parts: three hours and a half on two processors
#   scripts/drill.sh etcd          only these
#
#   files   100,000 app files against the reader, others each time; COUNT=20000 tries fewer
#   etcd    an etcd is killed 500 times under load, and no event is lost; KILLS=50 is a tenth of it
#   seeds   200 simulated clusters of 600 virtual seconds; SEEDS=10000 is `make drill-long`, FIRST=1000 begins there
#   moments wishes and faults at random moments: 100 seeds on one node, 20 on three managers (an hour); MOMENTS=10 is a
#           tenth of it
#   lab     a lab of three nodes: an agent killed 100 times in deployments, the server in every phase of one, Docker's
#           engine and the net process in every way of two tables, 100 containers up and down (20 minutes)
#   busy    an hour at 90 % of all processors in which no node may be called dead; SECONDS_BUSY=600 is ten minutes
#   mutants each deliberate bug of tests/simulation/mutants is caught within 500 seeds
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

PARTS=(files etcd seeds moments lab busy mutants)
[ $# -eq 0 ] || PARTS=("$@")
pytest() { .venv/bin/python -m pytest "$@"; }

files() { MINIORCH_FUZZ=${COUNT:-100000} pytest tests/unit/appfile/test_fuzz.py; }
etcd() { MINIORCH_ETCD_KILLS=${KILLS:-500} pytest -s tests/integration/test_etcd.py -k killed; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -E "$@"; fi; }
drills() { as_root env MINIORCH_LONG_DRILLS=1 "$@" .venv/bin/python -m pytest -s tests/endtoend/test_lab_drills.py; }
moments() {
    as_root env MINIORCH_ANY_MOMENT="${MOMENTS:-100}" MINIORCH_LAB_MOMENTS=$((${MOMENTS:-100} / 5)) \
        .venv/bin/python -m pytest tests/endtoend/test_any_moment.py tests/endtoend/drill_lab_moments.py
}
lab() { MINIORCH_BUSY_SECONDS=15 drills env; }
busy() { MINIORCH_BUSY_SECONDS=${SECONDS_BUSY:-3600} drills env PYTEST_ADDOPTS="-k busy"; }
seeds() { .venv/bin/miniorch simulate --seconds 600 --seed "${FIRST:-0}" --count "${SEEDS:-200}"; }
mutants() { .venv/bin/python tests/simulation/mutants/record.py --look; }

failed=0
for part in "${PARTS[@]}"; do
    printf '\n==== %s ====\n' "$part"
    "$part" || failed=1
done
exit $failed
