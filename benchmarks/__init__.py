"""What the kernels and the training step cost, against this machine's ceilings and against peers.

`isae-bench kernels` and `isae-bench train`; `isae.benchmarks.device` does both where only torch,
triton and numpy are installed.
"""
