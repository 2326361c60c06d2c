#!/usr/bin/env bash
# What takes too long for every day: 100,000 app files, other ones each time. A failure prints how to see it again.
#
#   scripts/drill.sh               half an hour on two processors
#   COUNT=20000 scripts/drill.sh   fewer
set -euo pipefail
cd "$(dirname "$0")/.."
export MINIORCH_FUZZ=${COUNT:-100000}
exec .venv/bin/python -m pytest tests/unit/appfile/test_fuzz.py "$@"
