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
# check or a test failed.
#
# Where pytest is installed, or lies in ./wheels too (pip download pytest pytest-xdist -d wheels), the
# kernels' tests run first, compiled for the GPU, for at most TESTS seconds (default 120; 0: not at
# all); what is left of the minutes is for measuring. By themselves, without a limit:
#
#   PYTHONPATH=. python3 -m pytest -p isae.benchmarks.bare -n 8 tests/kernels/triton \
#     tests/train/test_fused.py tests/train/test_fused_loop.py
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
FAILED=0
TESTS=${TESTS:-120}
START=$(date +%s)
if [ "$TESTS" -gt 0 ] && "$PYTHON" -c 'import pytest' 2>/dev/null; then
  WORKERS=
  if "$PYTHON" -c 'import xdist' 2>/dev/null; then WORKERS="-n 8"; fi
  # The plugin stands in for packages that isae.train imports and these tests do not need.
  # shellcheck disable=SC2086
  timeout -k 15 -s INT "$TESTS" "$PYTHON" -m pytest -q -p isae.benchmarks.bare -p no:cacheprovider \
    $WORKERS tests/kernels/triton tests/train/test_fused.py tests/train/test_fused_loop.py \
    >"$OUT/tests.txt" 2>&1
  CODE=$?
  tail -n 30 "$OUT/tests.txt"
  if [ "$CODE" -eq 124 ] || [ "$CODE" -eq 137 ]; then
    echo "tests: stopped after $TESTS s; the rest of them did not run"
  elif [ "$CODE" -ne 0 ]; then
    FAILED=1
  fi
else
  echo "tests: left out, pytest is not installed or TESTS is 0"
fi
SPENT=$(($(date +%s) - START))
LEFT=$((420 - SPENT))
# A kernel that hangs must not take the tables along with it.
timeout -k 15 -s INT "$((480 - SPENT))" "$PYTHON" -m isae.benchmarks.device --out "$OUT" \
  --minutes "${MINUTES:-$((LEFT / 60)).$((LEFT % 60 / 6))}" --peers "$PEERS" "$@" || FAILED=1
exit "$FAILED"
