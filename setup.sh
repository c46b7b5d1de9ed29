#!/usr/bin/env bash
# Makes .venv from pinned dependencies.   ./setup.sh [EXTRAS]
#
#   ./setup.sh                          no GPU: DALI's CPU operators, demo, tests (EXTRAS = cpu,demo,dev)
#   ./setup.sh gpu,demo                 an NVIDIA GPU, CUDA 12
#   ./setup.sh gpu-cu13,demo            an NVIDIA GPU, CUDA 13
#
# PYTHON chooses the interpreter (3.11 to 3.13). Without a GPU, torch is its CPU build, several gigabytes smaller: from
# the wheels that pip is configured to find (find-links), or else from PyTorch's own index, which uv knows.
set -euo pipefail
cd "$(dirname "$0")"
extras="${1:-cpu,demo,dev}"
case ",$extras," in
  *,gpu-cu13,*) pins=constraints/gpu-cu13.txt ;;
  *,gpu,*) pins=constraints/gpu-cu12.txt ;;
  *) pins=constraints/cpu.txt ;;
esac

# Nothing to do when a set-up that went through saw the same files and the same extras: .set-up has a line for each.
files=$(cat pyproject.toml "$pins" setup.sh <(echo "$PWD") | sha256sum | cut -d' ' -f1)
grep -qxsF "$files $extras" .venv/.set-up && exit 0

[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install -q 'uv==0.13.8'
echo "Setting up .venv with [$extras], pinned by $pins. The first time takes a few minutes."
# uv does not read pip's configuration: a mirror and local wheels that pip is set up for are handed on.
index=${PIP_INDEX_URL:-$(.venv/bin/python -m pip config get global.index-url 2>/dev/null || true)}
links=${PIP_FIND_LINKS:-$(.venv/bin/python -m pip config get global.find-links 2>/dev/null || true)}
torch=()
case "$pins" in */cpu.txt) [ -n "$links" ] || torch=(--torch-backend cpu) ;; esac
.venv/bin/uv pip install --python .venv/bin/python --compile-bytecode "${torch[@]}" \
  ${index:+--default-index "$index"} ${links:+--find-links "$links"} -e ".[$extras]" -c "$pins"
{ grep -sF "$files " .venv/.set-up || true; echo "$files $extras"; } > .venv/.set-up.new
mv .venv/.set-up.new .venv/.set-up
