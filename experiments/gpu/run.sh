#!/usr/bin/env bash
# Check and time oneshot on a GPU in less than nine minutes. README.md says what comes out of it.
#   experiments/gpu/run.sh [--out FOLDER] [--minutes 8.5] [--data FOLDER]
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python3}" experiments/gpu/run.py "$@"
