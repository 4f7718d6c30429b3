"""Times, quantiles and the counting of bytes and FLOPs."""

from __future__ import annotations

import pytest
import torch

from isae.benchmarks.kernels import achieved
from isae.benchmarks.measure import (
    Ceilings,
    Effort,
    commit,
    machine,
    summarise,
    time_call,
    versions,
)
from isae.benchmarks.operations import OPERATIONS, Cost, make_inputs
from isae.benchmarks.training import floor_seconds
from isae.benchmarks.workloads import RowMaker, Workload, find_workload
from isae.errors import UnknownNameError

CPU = torch.device("cpu")
SMALL = Workload("small", rows=2, d=3, n=5, k=4)
"""Pairs 8, row values 6, matrix values 15."""


def test_quantiles_are_interpolated() -> None:
    times = summarise([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (times.median, times.p10, times.p90, times.repeats) == (3.0, 1.4, 4.6, 5)
    one = summarise([7.0])
    assert one.median == one.p10 == one.p90 == 7.0
    assert summarise([1.0, 2.0]).median == 1.5


def test_calls_are_repeated_between_the_limits() -> None:
    calls: list[int] = []
    times = time_call(lambda: calls.append(1), CPU, Effort(warmup=2, seconds=0, least=4, most=9))
    assert (len(calls), times.repeats) == (6, 4)
    calls.clear()
    time_call(lambda: calls.append(1), CPU, Effort(warmup=0, seconds=1e9, least=1, most=9))
    assert len(calls) == 9


HAND = {
    # name: (bytes with operands of 2 bytes, flops)
    "topk_encode": (2 * (6 + 15) + 4 * 5 + 12 * 8, 2 * 2 * 3 * 5),
    "sparse_decode": (8 * 3 * 2 + 12 * 8 + 4 * 3 + 4 * 6, 2 * 8 * 3),
    "decode_residual": (8 * 3 * 2 + 16 * 8 + 4 * 3 + 8 * 6, 4 * 8 * 3 + 3 * 6),
    "group_by_latent": (12 * 8 + 8 * 8 + 8 * 6, 0),
    "sparse_outer": (8 * 3 * 2 + 12 * 8 + 8 * 6 + 4 * 15, 2 * 8 * 3),
    "adam_update": (7 * 4 * 15, 18 * 15),
    # Two gathers, pairs and coefficients, offsets, 2 x (3 in, 3 out) matrices, the bias, copies.
    "latent_update": (
        2 * 8 * 3 * 2 + 16 * 8 + 8 * 6 + 2 * 6 * 4 * 15 + 6 * 4 * 5 + 2 * 2 * 15,
        4 * 8 * 3 + 36 * 15,
    ),
    "column_sums": (4 * 6 + 16 * 3, 4 * 6),
}


def test_bytes_and_flops_by_hand() -> None:
    found = {one.name: one.cost(SMALL, 2) for one in OPERATIONS}
    assert {name: (cost.bytes, cost.flops) for name, cost in found.items()} == HAND
    (update,) = (one for one in OPERATIONS if one.name == "latent_update")
    # float32 operands: wider gathers, and no copies to write.
    assert update.cost(SMALL, 4).bytes == HAND["latent_update"][0] + 2 * 8 * 3 * 2 - 2 * 2 * 15


def test_shares_are_of_the_ceilings() -> None:
    found = achieved(
        Cost(6_000_000_000, 2_000_000_000), summarise([2.0]), Ceilings(12e9, 4e9, "float32")
    )
    assert (found["gb_per_s"], found["gflop_per_s"]) == (3.0, 1.0)
    assert (found["share_of_copy"], found["share_of_gemm"]) == (0.25, 0.25)


def test_the_floor_by_hand() -> None:
    floor = floor_seconds(SMALL, Ceilings(copy=10.0, gemm=5.0, dtype="float32"))
    assert floor["gemm"] == 60 / 5
    assert floor["parameters"] == 2 * 3 * 2 * 4 * 15 / 10
    assert floor["gathers"] == 4 * 8 * 3 * 2 / 10
    assert floor["total"] == floor["gemm"] + floor["parameters"] + floor["gathers"]


def test_the_machine_is_named() -> None:
    here = machine(CPU)
    assert here["processor"]
    assert here["cores"] >= 1
    assert here["memory_gib"] >= 1
    assert here["threads"] == torch.get_num_threads()
    assert versions()["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert isinstance(commit(), str)


def test_rows_look_like_activations() -> None:
    rows_BD = RowMaker(24, CPU, seed=3).rows(3000)
    assert rows_BD.dtype == torch.float32
    assert float(rows_BD.min()) == 0
    # Half of the numbers are 0 by construction; 3000 x 24 draws scatter by well under 2 %.
    assert abs(float((rows_BD == 0).double().mean()) - 0.5) < 0.02
    assert abs(float(rows_BD.square().mean()) - 1) < 0.1
    assert torch.equal(RowMaker(24, CPU, seed=3).rows(5), RowMaker(24, CPU, seed=3).rows(5))
    assert not torch.equal(RowMaker(24, CPU, seed=4).rows(5), RowMaker(24, CPU, seed=3).rows(5))


@pytest.mark.parametrize("work", [find_workload("tiny"), Workload("odd", 31, 7, 101, 7), SMALL])
def test_codes_have_distinct_latents_in_range(work: Workload) -> None:
    inputs = make_inputs(work, "cpu", CPU, torch.float32, seed=5)
    indices_BK = inputs["indices"]
    assert indices_BK.shape == (work.rows, work.k)
    assert int(indices_BK.min()) >= 0
    assert int(indices_BK.max()) < work.n
    assert all(len(set(row)) == work.k for row in indices_BK.tolist())


def test_an_unknown_workload_is_named() -> None:
    with pytest.raises(UnknownNameError, match="tinny"):
        find_workload("tinny")
