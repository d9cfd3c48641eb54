#!/usr/bin/env bash
# Submit a run of the pipeline to a Ray cluster as a Ray Job; it goes on when this terminal closes.
#
#   infra/submit.sh http://head:8265                                              everything, as configs/ say
#   infra/submit.sh http://head:8265 evaluate --force --set seed=2               what follows goes to `pipelines run`
#
# This working tree travels with the job, so that what you edit is what runs. Ray's secret, if the cluster asks for
# one, is taken from RAY_AUTH_MODE=token and RAY_AUTH_TOKEN.
set -euo pipefail

if [[ $# -eq 0 || $1 != http*://* ]]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0"
  exit 2
fi
dashboard=$1
shift
cd "$(dirname "$0")/.."
[[ ! -x .venv/bin/ray ]] || PATH=$PWD/.venv/bin:$PATH # what `make setup` installed
exec ray job submit --address "$dashboard" --working-dir . \
  --runtime-env-json '{"excludes": [".git", ".venv", "runs", "data", "tests", "build", "dist", "**/__pycache__"]}' \
  -- python -m pipelines run --set cluster.ray_address=auto --set cluster.ship_code=false "$@"
