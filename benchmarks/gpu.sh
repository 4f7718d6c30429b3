#!/bin/sh
# Checks, measures and tunes every kernel and the training step on one NVIDIA GPU, in under 8
# minutes, where only torch 2.11, triton 3.6 and numpy are installed. It has not run yet.
#
#   OUT=results sh benchmarks/gpu.sh        from the repository root
#
# isae need not be installed: the links isae/kernels etc. make the checkout a package. Peers that
# should be measured too lie with all that they need as wheels in ./wheels (made where there is a
# network: pip download eai-sparsify -d wheels, without torch and triton); without that folder they
# are left out. JSON goes to $OUT (default: out), short tables to the screen. Exit code 1 if a
# check failed.
set -u
OUT=${OUT:-out}
PYTHON=${PYTHON:-python3}
export OUT PYTHONPATH=".${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
unset TRITON_INTERPRET
mkdir -p "$OUT"
PEERS=none
if ls wheels/*.whl >/dev/null 2>&1; then
  SITE=$(mktemp -d)
  if "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$SITE" \
    wheels/*.whl; then
    PYTHONPATH="$PYTHONPATH:$SITE"
    PEERS=sparsify,sae-lens,dictionary-learning
  fi
fi
# A kernel that hangs must not take the tables along with it.
timeout -s INT 480 "$PYTHON" -m isae.benchmarks.device --out "$OUT" --minutes "${MINUTES:-7}" \
  --peers "$PEERS" "$@"
