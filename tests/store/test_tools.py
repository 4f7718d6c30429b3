"""`isae-store ls | head | merge | convert` on the command line."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from isae import cli
from isae.errors import ConfigError, StoreError, UnknownNameError
from isae.store import BuildConfig, build_store, open_store
from isae.store.cli import app
from isae.store.listing import describe_list, describe_rows, first_rows, list_stores


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`isae-store ARGUMENTS` in this process: starting one takes seconds."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["isae-store", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main(app)
        code = ended.value.code
        return Done(code if isinstance(code, int) else 1, *capsys.readouterr())

    return call


@pytest.fixture
def several(built: Path, tmp_path: Path) -> Path:
    """A folder with stores in every state, and other files."""
    folder = tmp_path / "all"
    for name in ("good", "below/unfinished", "below/building", "damaged", "shorter", "longest" * 9):
        shutil.copytree(built, folder / name)
    (folder / "below/unfinished/COMPLETE").unlink()
    (folder / "below/building/COMPLETE").unlink()
    (folder / "below/building/building.json").write_text("{}")
    manifest = folder / "damaged" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b" ")
    (folder / "shorter" / "stride16" / "mixed4a" / "c" / "0" / "0").write_bytes(b"")
    (folder / "other").mkdir()
    (folder / "other" / "manifest.json").write_text("{}")
    (folder / "begun" / "work").mkdir(parents=True)
    (folder / "begun" / "work" / "plan.json").write_text("{}")
    return folder


def test_ls_finds_every_store_and_its_state(several: Path) -> None:
    found = {one["name"]: one for one in list_stores(str(several))}
    assert {name: one["state"] for name, one in found.items()} == {
        "good": "complete",
        "longest" * 9: "complete",
        "below/unfinished": "unfinished",
        "below/building": "building",
        "begun": "unfinished",
        "damaged": "damaged",
        "shorter": "damaged",
    }
    assert found["good"]["images"] == 26
    assert found["good"]["layers"]["mixed4a"] == 26 * 16
    assert "stride16/mixed4a/c/0/0" in found["shorter"]["problem"]
    (alone,) = list_stores(str(several / "good"))
    assert (alone["name"], alone["state"]) == (".", "complete")


def test_ls_is_a_line_a_store_within_80_columns(several: Path) -> None:
    lines = describe_list(list_stores(str(several))).splitlines()
    assert len(lines) == 8
    assert max(map(len, lines)) <= 80
    assert describe_list(list_stores(str(several / "other"))) == "no stores"
    with pytest.raises(StoreError, match="found nothing"):
        list_stores(str(several / "nowhere"))
    with pytest.raises(StoreError, match="found a file"):
        list_stores(str(several / "other" / "manifest.json"))


def test_ls_in_a_bucket(s3_url: str) -> None:
    build_store(
        BuildConfig(
            images="synthetic:2",
            layers=("mixed4a",),
            out=f"{s3_url}/deep/store",
            size=32,
            workers=0,
        )
    )
    (found,) = list_stores(s3_url)
    assert (found["name"], found["state"]) == ("deep/store", "complete")
    assert open_store(found["store"]).layer("mixed4a").rows == found["rows"]
    assert list_stores(f"{s3_url}/nothing") == []


def test_head_shows_the_rows(built: Path) -> None:
    store = open_store(built)
    layer = store.layer("mixed4a")
    rows = first_rows(store, "mixed4a", 4, layer.train_rows - 2)
    values = store.activations("mixed4a")[layer.train_rows - 2 : layer.train_rows + 2]
    places = store.positions("mixed4a")[layer.train_rows - 2 : layer.train_rows + 2]
    assert [row["split"] for row in rows] == ["train", "train", "holdout", "holdout"]
    for row, expected_C, place in zip(rows, values, places, strict=True):
        assert [row["image"], row["y"], row["x"]] == place.tolist()
        assert row["values"] == expected_C.astype(float).tolist()
        assert row["nonzeros"] == (expected_C != 0).sum()
        assert row["name"] == store.images.column("name")[place[0]].as_py()
        assert row["top"][0]["value"] == expected_C.max()
        for one in row["top"]:
            low, high = layer.branches[one["branch"]]
            assert low <= one["channel"] < high
            assert expected_C[one["channel"]] == one["value"]
    lines = describe_rows(rows).splitlines()
    assert len(lines) == 8
    assert max(map(len, lines)) <= 80


def test_head_at_the_ends(built: Path) -> None:
    store = open_store(built)
    last = store.layer("mixed4a").rows - 1
    assert [row["row"] for row in first_rows(store, "mixed4a", 5, last)] == [last]
    for count, start in ((0, 0), (1, last + 1), (1, -1)):
        with pytest.raises(ConfigError):
            first_rows(store, "mixed4a", count, start)
    with pytest.raises(UnknownNameError, match="mixed4a"):
        first_rows(store, "mixed4z", 1)


def test_the_commands_print_one_json_object(
    built: Path, tmp_path: Path, run: Callable[..., Done]
) -> None:
    listed = run("ls", built.parent, "--json", "--quiet")
    assert [one["name"] for one in json.loads(listed.stdout)["stores"]] == ["store"]
    shown = json.loads(run("head", built, "mixed4a", "-n", "2", "--row", "7", "--json").stdout)
    assert [row["row"] for row in shown["rows"]] == [7, 8]
    assert len(shown["rows"][0]["values"]) == 508
    out = run("convert", built, "--to", "npy", "--out", tmp_path / "x", "--json", "--quiet")
    assert json.loads(out.stdout)["layers"]["mixed4a"]["files"] == ["mixed4a.npy"]
    assert out.stderr == ""
    back = run(
        *("convert", tmp_path / "x", "--from", "npy", "--layer", "mixed4a"),
        *("--out", tmp_path / "back", "--json", "--quiet", "--codec", "fast"),
    )
    assert json.loads(back.stdout)["codec"] == "fast"
    assert back.stderr == ""
    merged = run("merge", built, tmp_path / "back", "--out", tmp_path / "m", "--json")
    assert merged.returncode == 2
    assert "layers" in merged.stderr


def test_lines_for_a_person(tmp_path: Path, run: Callable[..., Done]) -> None:
    np.save(tmp_path / "x.npy", np.eye(40, 6, dtype=np.float32))
    out = tmp_path / "s"
    done = run("convert", tmp_path / "x.npy", "--from", "npy", "--layer", "c", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "c                     6     1x1          40" in done.stdout
    for command in (("head", out, "c"), ("info", out), ("ls", tmp_path)):
        shown = run(*command)
        assert shown.returncode == 0
        lines = [line for line in shown.stdout.splitlines() if str(tmp_path) not in line]
        assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ls", "nowhere"), "found nothing"),
        (("head", "nowhere", "mixed4a"), "found nothing"),
        (("merge", "nowhere", "--out", "x"), "at least two"),
        (("merge", "a", "b", "--out", "x"), "found nothing"),
        (("merge", "a", "b", "--out", "x", "--resume", "--overwrite"), "choose one"),
        (("convert", "a", "--out", "x"), "one of --to and --from"),
        (("convert", "a", "--to", "npy", "--from", "npy", "--out", "x"), "one of --to and --from"),
        (("convert", "a", "--to", "csv", "--out", "x"), "npy, safetensors or zarr"),
        (("convert", "a", "--to", "npy", "--out", "x", "--codec", "fast"), "--to zarr only"),
        (("convert", "a", "--to", "zarr", "--out", "x", "--resume"), "--from only"),
        (("convert", "a", "--from", "npy", "--out", "x"), "name the layer"),
        (("convert", "a", "--from", "npy", "--layer", "a/b", "--out", "x"), "with a name"),
        (("convert", "a", "--from", "npy", "--layer", "a", "--out", "x"), "nothing there"),
        (("convert", "a", "--from", "csv", "--layer", "a", "--out", "x"), "npy or safetensors"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[..., Done],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []
