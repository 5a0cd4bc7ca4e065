#!/usr/bin/env bash
# Random deployments, canaries, hotfixes, releases, rushes and kills under load: `benches/soak.sh [MINUTES] [SEED]`, an hour by default.
#
# It builds in release, prints what each kind of deed cost, and ends with 0 only if planned changes cost no request, kills no more than what was
# under way, memory stayed flat, and nothing is left. CI runs the same for a minute.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec cargo run --release --locked --quiet --bin quickstart -- soak "${1:-60}" ${2:+"$2"}
