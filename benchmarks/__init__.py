"""What kernels, training steps and stores cost, against this machine's ceilings and against peers.

`isae-bench kernels`, `train`, `quality` and `store`; `isae.benchmarks.device` does the first two
where only torch, triton and numpy are installed.
"""
