#!/usr/bin/env bash
# Start a Ray cluster of three raylets on this machine, run a command against it, and stop it again.
#
#   infra/three_raylets.sh python -m pipelines run            three raylets of 2 CPUs each
#   infra/three_raylets.sh -c 1 python -m pipelines run       of 1 CPU each
#   infra/three_raylets.sh                                    until Ctrl-C; prints how to reach it
#
# The command finds the cluster through RAY_ADDRESS. Only what is started here is stopped: other Rays on this machine
# stay. To try the loss of a node, kill the process id of one of the raylets that the script names.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
[[ ! -x $root/.venv/bin/ray ]] || PATH=$root/.venv/bin:$PATH # what `make setup` installed

cpus=2
while getopts "c:h" option; do
  case "$option" in
    c) cpus=$OPTARG ;;
    *)
      sed -n '2,9s/^# \{0,1\}//p' "$0"
      exit 2
      ;;
  esac
done
shift $((OPTIND - 1))

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

# Short, because Ray puts sockets below it whose paths may have 107 bytes at most.
folder=$(mktemp -d /tmp/raylets.XXXXXX)
nodes=()
running=

stop() {
  trap - EXIT INT TERM
  # The head last: a raylet that lost its head waits for it. `ray start --block` takes its raylet along.
  for ((i = ${#nodes[@]} - 1; i >= 0; i--)); do
    kill "${nodes[i]}" 2>/dev/null || true
    for _ in $(seq 50); do
      kill -0 "${nodes[i]}" 2>/dev/null || break
      sleep 0.2
    done
    # Each node is a session, and so a process group, of its own.
    kill -KILL -- "-${nodes[i]}" 2>/dev/null || true
  done
  rm -rf "$folder"
}
trap stop EXIT
trap '[[ -z $running ]] || kill "$running" 2>/dev/null; exit 130' INT TERM

start() {
  setsid ray start "$@" --block --num-cpus "$cpus" --num-gpus 0 --object-store-memory 200000000 \
    --min-worker-port 0 --max-worker-port 0 --disable-usage-stats \
    </dev/null >"$folder/node-${#nodes[@]}.log" 2>&1 &
  nodes+=($!)
}

await() {
  python3 - "$1" <<'PYTHON' || {
import sys, time
import ray
wanted, deadline, alive = int(sys.argv[1]), time.monotonic() + 120, 0
while alive < wanted and time.monotonic() < deadline:
    try:
        ray.init(log_to_driver=False, logging_level="ERROR")
        alive = sum(node["Alive"] for node in ray.nodes())
    except (ConnectionError, RuntimeError, OSError):
        pass
    finally:
        ray.shutdown()
    time.sleep(0.5)
sys.exit(alive < wanted)
PYTHON
    echo "the raylets did not start; their logs:" >&2
    cat "$folder"/node-*.log >&2
    exit 1
  }
}

# A secret of this cluster's own: Ray asks for a token by default, and one in the home folder may be another's.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
port=$(free_port)
export RAY_ADDRESS=127.0.0.1:$port

start --head --port "$port" --ray-client-server-port "$(free_port)" --include-dashboard false --temp-dir "$folder/ray"
await 1
# One after the other: two that start at once on one machine take the same ports.
start --address "$RAY_ADDRESS"
await 2
start --address "$RAY_ADDRESS"
await 3
echo "three raylets of $cpus CPUs: RAY_ADDRESS=$RAY_ADDRESS, processes ${nodes[*]}" >&2

if [[ $# -gt 0 ]]; then
  # In the background, so that a signal reaches this script while the command runs.
  "$@" &
else
  echo "in another terminal: export RAY_ADDRESS=$RAY_ADDRESS RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$RAY_AUTH_TOKEN" >&2
  sleep infinity &
fi
running=$!
wait "$running"
