#!/usr/bin/env bash
# Start a Ray cluster of three raylets on this machine, run a command against it, stop it again.
#
#   infra/three_raylets.sh python -m pipelines run            three raylets of 2 CPUs each
#   infra/three_raylets.sh -c 1 python -m pipelines run       of 1 CPU each
#   infra/three_raylets.sh                                    until Ctrl-C; prints the address for cluster.ray_address
#
# The command finds the cluster through RAY_ADDRESS. Only the processes started here are stopped: other Rays on the
# machine stay. To try the loss of a node, kill one of the printed process ids.
set -euo pipefail

cpus=2
while getopts "c:h" option; do
  case "$option" in
    c) cpus=$OPTARG ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
done
shift $((OPTIND - 1))

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

folder=$(mktemp -d /tmp/raylets.XXXXXX) # short: Ray puts sockets below it, and their paths are limited to 107 bytes
nodes=()
stop() {
  trap - EXIT INT TERM
  # Workers first: a raylet that loses its head waits for it.
  for ((i = ${#nodes[@]} - 1; i >= 0; i--)); do
    kill "${nodes[i]}" 2>/dev/null || true
    wait "${nodes[i]}" 2>/dev/null || true
  done
  rm -rf "$folder"
}
trap stop EXIT
trap 'exit 130' INT TERM

start() {
  # In a session of its own, so that Ctrl-C reaches this script and not the raylets before it.
  setsid ray start "$@" --node-ip-address 127.0.0.1 --num-cpus "$cpus" --num-gpus 0 --block \
    --object-store-memory 200000000 --min-worker-port 0 --max-worker-port 0 \
    --disable-usage-stats >"$folder/node-${#nodes[@]}.log" 2>&1 &
  nodes+=($!)
}

export RAY_ADDRESS
address=127.0.0.1:$(free_port)
start --head --port "${address##*:}" --ray-client-server-port "$(free_port)" --include-dashboard false \
  --temp-dir "$folder"
wait_for() { # until the cluster has this many nodes
  for _ in $(seq 120); do
    alive=$(RAY_ADDRESS=$address ray list nodes 2>/dev/null | grep -c ALIVE || true)
    [[ $alive -ge $1 ]] && return
    sleep 0.5
  done
  echo "the raylets did not start; their logs:" >&2
  cat "$folder"/node-*.log >&2
  exit 1
}
