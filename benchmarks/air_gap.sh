#!/usr/bin/env bash
# The air gap: set-up from a folder of wheels and the main job, without a network.
#
#   benchmarks/air_gap.sh collect wheels   # where there is a network: fill the folder (Linux, same Python)
#   benchmarks/air_gap.sh run wheels       # cuts the network off by itself and uses the folder alone
#
# `run` works in a temporary folder with an empty home, so that no cache of pip, torch or sfumato
# helps. PYTHON names the interpreter (python3). pip takes PyTorch's wheel from where it is set up
# to look; for machines without a GPU, set it up for PyTorch's CPU wheels before `collect`.
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
[ $# = 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }

collect() {
    mkdir -p "$1"
    "$python" -m pip download --quiet --dest "$1" --constraint "$repo/constraints.txt" "$repo"
    "$python" -m pip wheel --quiet --no-deps --wheel-dir "$1" "$repo"
    rm -f "$1"/sfumato-*.zip "$1"/sfumato-*.tar.gz # what `pip download` makes of a folder
}

cut_off() { # runs in a network namespace of its own, without even a loopback device that is up
    wheels=$1 work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/home"
    cd "$work"
    "$python" - <<'END'
import socket
try:
    socket.create_connection(("192.0.2.1", 443), timeout=3)
except OSError as error:
    print("no network:", error.strerror)
else:
    raise SystemExit("there still is a network")
END
    alone=(env -i HOME="$work/home" PATH=/usr/bin:/bin LANG=C.UTF-8 OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}")
    step() { echo "== $*" | sed "s|$work/||g"; SECONDS=0; "${alone[@]}" "$@"; echo "   rc 0, $SECONDS s"; }
    step "$("$python" -c 'import sys; print(sys.executable)')" -m venv venv
    PIP=(PIP_CONFIG_FILE=/dev/null PIP_DISABLE_PIP_VERSION_CHECK=1)
    alone+=("${PIP[@]}")
    step venv/bin/python -m pip install --quiet --no-index --find-links "$wheels" sfumato
    sfumato=venv/bin/sfumato
    step $sfumato demo --out demo --quiet
    step $sfumato synthesize digits --method moments --epsilon 10 --samples 1000 --out release --quiet
    step $sfumato evaluate release --against digits:test --public --classifiers logistic,cnn --quick --quiet
    step $sfumato report release
    step $sfumato verify release
    echo "all done without a network"
}

case $1 in
    collect) collect "$2" ;;
    run) exec unshare --map-root-user --net "$0" cut-off "$(realpath "$2")" ;;
    cut-off) cut_off "$2" ;;
    *) echo "air_gap.sh: '$1' is neither collect nor run" >&2; exit 2 ;;
esac
