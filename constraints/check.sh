#!/usr/bin/env bash
# Checks that the pins still fit: resolves every set anew against the package index.   constraints/check.sh
#
# A set fits when it resolves, when every package that it needs is pinned, and, without a GPU, when no CUDA library of
# gigabytes is among them. Exit codes: 0 all fit; 1 one does not; 2 the package index could not be asked.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."
cuda='^(triton|cuda-.*|nvidia-(cublas|cuda|cudnn|cufft|cufile|curand|cusolver|cusparse|nccl|nvjitlink|nvshmem|nvtx).*)=='
links=${PIP_FIND_LINKS:-$(.venv/bin/python -m pip config get global.find-links 2>/dev/null || true)}
cpu_torch=(--torch-backend cpu)  # where setup.sh finds it, too
[ -z "$links" ] || cpu_torch=(--find-links "$links")

check() {  # check EXTRA PINS PYTHON [option of uv...]
  local extra=$1 pins=constraints/$2.txt python=$3 found status=0 bad
  local name="$extra on Python $python"
  shift 3
  found=$(.venv/bin/uv pip compile -q pyproject.toml --extra "$extra" --extra demo --extra dev -c "$pins" \
    --python-version "$python" --no-header --no-annotate "$@") || status=$?
  if [ "$status" = 1 ]; then echo "$name: does not resolve with $pins, see above"; return 1; fi
  if [ "$status" != 0 ]; then echo "$name: the package index could not be asked, see above"; return 2; fi
  found=$(sed 's/[ ;].*//; s/+.*//' <<< "$found" | sort)
  bad=$(comm -13 <(sed 's/[ ;].*//' "$pins" | sort) - <<< "$found")
  if [ -n "$bad" ]; then echo "$name: not pinned in $pins:" $bad; return 1; fi
  bad=$([ "$extra" != cpu ] || grep -E "$cuda" <<< "$found" || true)
  if [ -n "$bad" ]; then echo "$name: needs no GPU, but pulls:" $bad; return 1; fi
  echo "$name: $(wc -l <<< "$found") packages fit $pins"
}

check cpu cpu 3.11 "${cpu_torch[@]}" & checks=($!)
for python in 3.11 3.12; do
  check gpu gpu-cu12 "$python" & checks+=($!)
  check gpu-cu13 gpu-cu13 "$python" & checks+=($!)
done
worst=0
for one in "${checks[@]}"; do
  wait "$one" || { status=$?; [ "$worst" = 1 ] || worst=$status; }
done
exit "$worst"
