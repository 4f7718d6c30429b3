"""`isae-analyze visualise` on real small stores of a trained and an untrained network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from isae.analysis.cli import app
from isae.analysis.inputs import open_run
from isae.analysis.visualise.analyze import analyze_visualise
from isae.analysis.visualise.config import KINDS, VisualiseConfig
from isae.analysis.visualise.data_best import data_best
from isae.analysis.visualise.patch_config import PatchesConfig
from isae.analysis.visualise.ranking import rank_features, take_turns
from isae.analysis.visualise.records import read_records
from isae.analysis.visualise.summary import visualise_text
from isae.analysis.visualise.targets import Objective, drives_of
from isae.errors import ConfigError, RunError, UnknownNameError
from isae.inception import load_model
from isae.progress import Reporter
from isae.store import BuildConfig, build_store, open_store
from isae.train import SAE

LAYER, N, K, DEAD, SIZE = "mixed3a", 160, 4, 4, 40
QUICK = VisualiseConfig(visualise=3, steps=3, batch_size=2)


def make_run(folder: Path, weights: str, save_run: Callable[..., Path]) -> Path:
    """A finished run's folder around an SAE with random rows and dead features."""
    build_store(
        BuildConfig(
            images="synthetic:16", layers=(LAYER,), out=str(folder / "store"), positions="all",
            size=SIZE, workers=0, holdout=0.25, seed=2, device="cpu", weights=weights,
        )
    )  # fmt: skip
    store = open_store(folder / "store")
    rng = np.random.default_rng(1)
    W = rng.normal(size=(N, store.layers[LAYER].channels)).astype(np.float32)
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    W[1] = 0.99 * W[0] + 0.01 * W[2]
    bias = np.zeros(N, dtype=np.float32)
    bias[-DEAD:] = -1e6
    mean_C = store.statistics(LAYER).mean_C.astype(np.float32)
    sae = SAE(*(torch.from_numpy(part) for part in (W, bias, W.copy(), mean_C)), K)
    return save_run(folder, store, LAYER, sae)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, save_run: Callable[..., Path]) -> Path:
    return make_run(tmp_path_factory.mktemp("visualise"), "default", save_run)


@pytest.fixture(scope="module")
def printed(run: Path) -> dict:
    """What the command prints, run once for all tests here."""
    import contextlib
    import io

    options = ["--visualise", "3", "--steps", "3", "--kind", "feature,neuron,branch,diversity"]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        app(
            ["visualise", str(run), "--quiet", "--json", "--set-size", "2", *options],
            standalone_mode=False,
        )
    return json.loads(text.getvalue())


def folder_of(run: Path) -> Path:
    return run / "analysis" / "visualise"


def bytes_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every picture's bytes and time of writing."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in (folder / "pictures").iterdir()
    }


def test_files_table_and_summary_agree(run: Path, printed: dict) -> None:
    folder = folder_of(run)
    table = pq.read_table(folder / "pictures.parquet")
    rows = table.to_pylist()
    assert {row["file"] for row in rows} == {
        path.relative_to(folder).as_posix() for path in (folder / "pictures").iterdir()
    }
    counts = {kind: sum(row["kind"] == kind for row in rows) for kind in KINDS}
    assert counts == {"feature": 3, "neuron": 3, "branch": 3, "diversity": 6}
    assert set(printed["pictures"]["kinds"]) == set(KINDS)
    assert json.loads((folder / "summary.json").read_text()) == {
        key: value for key, value in printed.items() if key != "out"
    }
    assert printed["complete"]
    assert {row["settings"] for row in rows} == set(printed["settings"])
    for one in printed["settings"].values():
        assert {"steps", "lr", "jitter", "rotation", "scale", "colours"} <= set(one)
    assert (folder / "patches.parquet").is_file()
    assert printed["tile"] == printed["patches"]["tile"]
    for name in printed["figures"]:
        with Image.open(folder / "figures" / f"{name}.png") as image:
            assert np.asarray(image.convert("L")).std() > 5
    lines = visualise_text(printed, "out").splitlines()
    assert max(len(line) for line in lines) <= 80
    assert sum(line.startswith(tuple(printed["pictures"]["kinds"])) for line in lines) == 4


def test_what_is_reached_is_what_a_reader_of_the_file_finds(run: Path, printed: dict) -> None:
    """The PNG through the network and the encoder: code, pre-activation, branch part, neuron."""
    inputs = open_run(run)
    sae, network = inputs.sae, load_model("inceptionv1", dtype=torch.float32)
    cell = printed["place"]["cell"]
    for row in pq.read_table(folder_of(run) / "pictures.parquet").to_pylist():
        with Image.open(folder_of(run) / row["file"]) as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        assert pixels.shape == (1, 3, SIZE, SIZE)
        with torch.inference_mode():
            x_C = network.activations(pixels, [LAYER])[LAYER][0, :, cell, cell]
            values, indices = sae.encode(x_C[None])
        unit = row["feature"]
        if row["kind"] == "neuron":
            assert row["reached"] == pytest.approx(float(x_C[unit]), rel=1e-4, abs=1e-4)
            assert row["kept"] == (float(x_C[unit]) > 0)
            continue
        weight, code = sae.W_enc_ND[unit], float(values[indices == unit].sum())
        assert row["code"] == pytest.approx(code, rel=1e-4, abs=1e-4)
        assert row["kept"] == (code > 0)
        if row["kind"] == "branch":
            start, stop = inputs.stored.branches[row["branch"]]
            drive = float(weight[start:stop] @ (x_C - sae.b_dec_D)[start:stop])
            assert row["reached"] == pytest.approx(drive, rel=1e-3, abs=1e-3)
        else:
            drive = float(weight @ (x_C - sae.b_dec_D) + sae.b_enc_N[unit])
            assert row["reached"] == row["code"]
        assert row["drive"] == pytest.approx(drive, rel=1e-3, abs=1e-3)
        assert row["above"] == (row["reached"] > row["best"])


def test_the_datas_largest_is_that_of_encoding_every_row(run: Path) -> None:
    inputs = open_run(run)
    rows = inputs.stored.rows
    x_RC = torch.from_numpy(np.asarray(inputs.store.activations(LAYER)[0:rows], dtype=np.float32))
    values, indices = inputs.sae.encode(x_RC)
    codes_RN = torch.zeros(rows, N).scatter_(1, indices, values).numpy()
    branch, (start, stop) = next(iter(inputs.stored.branches.items()))
    objectives = [Objective("feature", unit) for unit in range(N)]
    objectives += [Objective("neuron", 5), Objective("branch", 3, branch)]
    best = data_best(inputs, drives_of(inputs, objectives), [(0, rows // 2), (rows // 2, rows)])
    assert best.rows == rows
    np.testing.assert_allclose(best.code_P[:N], codes_RN.max(axis=0), rtol=1e-4, atol=1e-4)
    assert (best.code_P[N - DEAD : N] == 0).all()
    assert best.drive_P[N] == pytest.approx(float(x_RC[:, 5].max()), rel=1e-5)
    part_R = (x_RC - inputs.sae.b_dec_D)[:, start:stop] @ inputs.sae.W_enc_ND[3, start:stop]
    assert best.drive_P[N + 1] == pytest.approx(float(part_R.max()), rel=1e-4)


def test_a_feature_that_rivals_push_out_where_it_is_driven_most_has_its_largest_code_elsewhere(
    run: Path,
) -> None:
    """On 40 rows or more, more than are kept as candidates, four latents like it are above it."""
    inputs = open_run(run)
    rows = inputs.stored.rows
    x_RC = torch.from_numpy(np.asarray(inputs.store.activations(LAYER)[0:rows], dtype=np.float32))
    one_C = torch.zeros(x_RC.shape[1])
    one_C[5] = 1.0
    drive_R = x_RC[:, 5].sort(descending=True).values
    # Stored numbers have few bits, so that rows can tie: cut where two of them differ.
    cut = next(row for row in range(40, rows) if drive_R[row - 1] > drive_R[row])
    W = torch.stack([one_C, *[2 * one_C] * 4])
    bias = torch.tensor([0.0, *[-float(drive_R[cut])] * 4])
    sae = SAE(W, bias, W.clone(), torch.zeros_like(one_C), 4)
    inputs = replace(inputs, sae=sae)
    best = data_best(inputs, drives_of(inputs, [Objective("feature", 0)]), [(0, rows)])
    values, indices = sae.encode(x_RC)
    assert float(drive_R[cut]) > 0
    assert best.drive_P[0] == pytest.approx(float(drive_R[0]), rel=1e-5)
    assert 0 < best.code_P[0] == pytest.approx(float(values[indices == 0].max()), rel=1e-5)


def test_ranking_takes_turns_and_passes_over_dead_features_and_duplicates(run: Path) -> None:
    inputs = open_run(run)
    ranked = rank_features(inputs, VisualiseConfig(visualise=N))
    assert not set(range(N - DEAD, N)) & set(ranked.unit_U.tolist())
    assert len({0, 1} & set(ranked.unit_U.tolist())) <= 1
    first = rank_features(inputs, VisualiseConfig(visualise=5))
    assert first.unit_U.tolist() == ranked.unit_U.tolist()[:5]
    owner = ["a", "a", "a", "b", "a", "c"]
    score = np.array([9.0, 8, 7, 6, 5, 4])
    taken = take_turns(np.arange(6), score, owner, 5)
    assert taken.tolist() == [0, 3, 5, 1, 2]
    rows = np.eye(6, dtype=np.float32)
    rows[1] = rows[0]
    assert take_turns(np.arange(6), score, owner, 5, rows).tolist() == [0, 3, 5, 2, 4]


def test_pictures_stay_byte_for_byte_and_more_come_on_demand(
    run: Path, printed: dict, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(folder_of(run), whole)
    before = bytes_of(whole)
    options = VisualiseConfig(visualise=3, steps=3, set_size=2)
    again = analyze_visualise(run, out=whole, config=options)
    assert again["pictures"]["made_now"] == 0
    assert bytes_of(whole) == before
    assert (whole / "patches.parquet").stat().st_mtime_ns < (
        whole / "summary.json"
    ).stat().st_mtime_ns
    victims = sorted(name for name in before if name.startswith("feature"))
    (whole / "pictures" / victims[0]).unlink()
    (whole / "pictures" / victims[1]).write_bytes(b"damaged")
    (whole / "pictures" / "left_by_a_kill.png").write_bytes(b"no row names this")
    more = analyze_visualise(
        run, out=whole, config=VisualiseConfig(features=(7, 9), kind=("feature",), steps=3)
    )
    assert more["pictures"]["made_now"] == 2
    mended = analyze_visualise(run, out=whole, config=options)
    assert mended["pictures"]["made_now"] == 2
    after = bytes_of(whole)
    assert set(after) == set(before) | {"feature_00007.png", "feature_00009.png"}
    assert {name: after[name][0] for name in before} == {name: before[name][0] for name in before}
    untouched = set(before) - set(victims[:2])
    assert {name: after[name] for name in untouched} == {name: before[name] for name in untouched}


def test_other_settings_make_a_picture_anew_and_a_set_is_made_whole(
    run: Path, printed: dict, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(folder_of(run), whole)
    before = bytes_of(whole)
    units = sorted({one.unit for one in read_records(whole) if one.kind == "feature"})
    options = VisualiseConfig(features=(units[0],), steps=4)
    other = analyze_visualise(run, out=whole, config=options)
    assert other["pictures"]["made_now"] == 1
    after = bytes_of(whole)
    assert {name for name in after if after[name][0] != before[name][0]} == {
        f"feature_{units[0]:05d}.png"
    }
    steps = {one.unit: one.steps for one in read_records(whole) if one.kind == "feature"}
    assert steps == {unit: 4 if unit == units[0] else 3 for unit in units}
    assert len(other["settings"]) == len(printed["settings"]) + 1
    assert len(other["pictures"]["kinds"]["feature"]["settings"]) == 2
    assert "several settings, counted together: feature" in visualise_text(other, "out")
    assert "several settings" not in visualise_text(printed, "out")
    assert other["pictures"]["kinds"]["diversity"]["share_interval"] is None
    (whole / "pictures" / f"diversity_{units[1]:05d}_1.png").unlink()
    sets = VisualiseConfig(features=(units[1],), kind=("diversity",), steps=3, set_size=2)
    assert analyze_visualise(run, out=whole, config=sets)["pictures"]["made_now"] == 2
    assert (
        bytes_of(whole)[f"diversity_{units[1]:05d}_0.png"][0]
        == before[f"diversity_{units[1]:05d}_0.png"][0]
    )


def test_an_untrained_network_of_its_own_store_and_a_folder_of_another_dictionary(
    run: Path, printed: dict, tmp_path: Path, save_run: Callable[..., Path]
) -> None:
    untrained = make_run(tmp_path, "random:0", save_run)
    out = tmp_path / "out"
    options = VisualiseConfig(visualise=1, kind=("feature", "neuron"), steps=2, colours="plain")
    summary = analyze_visualise(untrained, out=out, config=options)
    assert summary["pictures"]["kinds"]["feature"]["judged"] == 1
    assert {one["colours"] for one in summary["settings"].values()} == {"plain"}
    assert "plain" in visualise_text(summary, "out")
    before = bytes_of(out)
    with pytest.raises(RunError, match="--overwrite"):
        analyze_visualise(run, out=out, config=QUICK)
    assert bytes_of(out) == before
    fresh = analyze_visualise(
        run,
        out=out,
        config=VisualiseConfig(visualise=0),
        patches=PatchesConfig(top=1),
        overwrite=True,
    )
    assert fresh["pictures"]["count"] == 0
    assert not list(out.glob("pictures/*.png"))


def test_without_its_pictures_a_store_gives_plain_colours_unless_they_were_measured(
    run: Path, printed: dict, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    shutil.copytree(folder_of(run), kept)
    options = VisualiseConfig(visualise=3, steps=3)
    again = analyze_visualise(run, out=kept, images=str(tmp_path / "gone"), config=options)
    assert again["pictures"]["made_now"] == 0
    assert bytes_of(kept) == bytes_of(folder_of(run))
    assert again["statistics"] == printed["statistics"]
    assert again["patches"] == printed["patches"]


def test_sheets_that_were_lost_with_the_pictures_come_back_with_them(
    run: Path, printed: dict, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(folder_of(run), out)
    none, one_less = VisualiseConfig(visualise=0), PatchesConfig(top=2)
    gone = str(tmp_path / "gone")
    without = analyze_visualise(run, out=out, images=gone, config=none, patches=one_less)
    assert without["patches"]["sheets"] is None
    assert not (out / "sheets").exists()
    found = analyze_visualise(run, out=out, config=none, patches=one_less)
    assert found["patches"]["sheets"]["count"] == len(list((out / "sheets").iterdir()))


def test_a_kill_while_patches_are_cut_leaves_no_description_of_others(
    run: Path, printed: dict, tmp_path: Path
) -> None:
    class Killed(Reporter):
        def task(self, total: int, label: str, unit: str) -> Any:
            if label == "sheets":
                raise KeyboardInterrupt
            return super().task(total, label, unit)

    out = tmp_path / "out"
    shutil.copytree(folder_of(run), out)
    with pytest.raises(KeyboardInterrupt):
        analyze_visualise(
            run, out=out, config=QUICK, patches=PatchesConfig(top=2), reporter=Killed(quiet=True)
        )
    left = json.loads((out / "summary.json").read_text())
    assert not {"patches", "tile", "tiles"} & set(left)
    assert left["pictures"] == printed["pictures"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": (N,)}, f"below {N}"),
        ({"features": (256,), "kind": ("neuron",)}, "below 256"),
    ],
)
def test_units_that_are_not_there_are_refused(run: Path, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        analyze_visualise(run, config=VisualiseConfig(**options))


def test_other_wrong_input_is_refused_with_a_remedy(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="5x5"):
        analyze_visualise(run, config=VisualiseConfig(kind=("branch",), branch="5x6"))
    with pytest.raises(ConfigError, match="1,2,3"):
        app(["visualise", str(run), "--features", "1;2"], standalone_mode=False)
    for wrong in (
        {"kind": ("features",)}, {"steps": 0}, {"lr": 0.0}, {"cells": "middle"}, {"set_size": 9},
        {"size": 4}, {"colours": "grey"}, {"features": (-1,)}, {"kind": ("feature", "feature")},
        {"rotation": 200.0}, {"scale": 1.0},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="expected"):
            VisualiseConfig(**wrong)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(RunError, match="nothing was deleted"):
        analyze_visualise(run, out=tmp_path, config=QUICK, overwrite=True)
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged / "run")
    pq.write_table(pa.table({"a": [1]}), damaged / "pictures.parquet")
    with pytest.raises(RunError, match="table of pictures"):
        read_records(damaged)
