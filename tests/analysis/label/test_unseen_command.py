"""`isae-analyze label --unseen` on small stores of photos."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from isae.analysis.inputs import RunInputs, open_run
from isae.analysis.label.analyze import analyze_label
from isae.analysis.label.config import LabelConfig
from isae.analysis.label.images import choose_images
from isae.analysis.label.pictures import Seen, border_images, look
from isae.analysis.label.summary import labels_text
from isae.analysis.label.unseen_images import (
    UNSEEN,
    in_both,
    makers,
    open_second,
    pixel_hashes,
)
from isae.analysis.label.unseen_reading import padding_once_more
from isae.analysis.label.unseen_summary import may_have_been_seen
from isae.analysis.network import store_network
from isae.analysis.patches import find_pictures
from isae.errors import StoreError
from isae.files import sha256
from isae.images import open_source
from isae.progress import QUIET, Reporter

UNSEEN_NAMES, TRAINED_NAMES = "val_{number}.JPEG", "n02123045_{number}.JPEG"


class Warned(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="module")
def swapped(run: Path, made: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of unseen photos, two of whose classes have each other's colour. Two of the own
    photos are among them by their name, two by another.
    """
    folder, colours = tmp_path_factory.mktemp("swapped"), dict(made.classes)
    first, second, third = colours
    colours |= {second: colours[third], third: colours[second]}
    made.photos(folder / "photos", colours, 7, UNSEEN_NAMES)
    own = run.parent / "photos"
    for number in range(2):
        name = f"1-{number}.png"
        shutil.copy(own / first / name, folder / "photos" / first / name)
        shutil.copy(own / third / name, folder / "photos" / third / f"9{name}")
    return str(made.stored(folder, "photos", "store").path)


def test_a_label_of_the_own_photos_alone_is_told_on_unseen_ones(
    run: Path, swapped: str, tmp_path: Path
) -> None:
    config = LabelConfig(top=16, shuffles=2, padding_pictures=6, padding_images=2, workers=0)
    warned = Warned()
    found = analyze_label(
        run, unseen=swapped, out=tmp_path / "both", config=config, reporter=warned
    )["unseen"]
    assert warned.texts == []
    assert found["images"]["in_both_stores_and_left_out"] == 4
    assert found["images"]["of_each_side"] == 27
    assert found["images"]["called"] == "unseen"
    # 11 of the run's pictures were held out, and the label's own test had 6 of them.
    assert found["padding"] == {"own": {"pictures": 5}, "unseen": {"pictures": 5}}
    assert found["kinds"]["class"]["chosen_hold"]["own"] >= 4
    colour = found["kinds"]["colour"]
    assert colour["chosen_hold"]["both"] >= 4, "what it looks like did not change"
    low, high = colour["chosen"]["interval_95"]
    assert low <= colour["chosen"]["difference"] <= high
    assert (tmp_path / "both" / "figures" / "unseen.png").is_file()
    # Without pictures no colour is named: the label is the class.
    config = LabelConfig(top=16, shuffles=2, figures=False)
    elsewhere = str(tmp_path / "none")
    alone = analyze_label(
        run, images=elsewhere, unseen=swapped, out=tmp_path / "class", config=config
    )
    rows = pq.read_table(tmp_path / "class" / "labels.parquet").to_pylist()
    assert [row["taxonomy"] for row in rows[:4]] == ["class"] * 4
    assert [row["unseen_holds"] for row in rows[:4]] == [True, False, False, True]
    assert rows[0]["unseen_gain"] == rows[0]["own_gain"] == 1.0
    assert rows[1]["unseen_score"] == 0.0
    assert rows[-1]["unseen_holds"] is None
    assert max(len(line) for line in labels_text(alone, "out").splitlines()) <= 80


def test_pictures_that_may_have_been_seen_are_not_called_unseen(
    run: Path, made: SimpleNamespace, tmp_path: Path
) -> None:
    inputs, config = open_run(run, None, device=torch.device("cpu")), LabelConfig()
    for name, said in (
        (TRAINED_NAMES, "learned from 18 of the 18"),
        ("{seed}-{number}.png", "nothing tells whether the network learned from 18 of the 18"),
    ):
        folder = tmp_path / str(len(said))
        made.photos(folder / "more", dict(list(made.classes.items())[:1]), 5, name)
        path = str(made.stored(folder, "more", "store").path)
        second = open_second(inputs, path, config)
        assert said in may_have_been_seen(second, np.full(18, UNSEEN))
    warned, config = Warned(), LabelConfig(top=16, shuffles=1, padding_pictures=6, workers=0)
    found = analyze_label(run, unseen=path, out=tmp_path / "out", config=config, reporter=warned)
    assert len(warned.texts) == 1
    assert "nothing tells" in warned.texts[0]
    assert found["unseen"]["images"]["called"] == "other"
    text = labels_text(found, "out")
    assert "on 9 other images" in text
    assert "unseen " not in text.replace("--unseen", "")
    svg = (tmp_path / "out" / "figures" / "unseen.svg").read_text()
    assert "other pictures" in svg
    assert "unseen pictures" not in svg
    # 5 of the run's held-out pictures are left, and 6 are needed.
    assert "at least 6" in found["unseen"]["padding"]["own"]["skipped"]
    assert found["unseen"]["kinds"]["edge artefact"]["chosen_tested"] == 0
    assert "no edge artefacts: new pictures" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def looked_at(inputs: RunInputs, config: LabelConfig) -> Seen:
    network = store_network(inputs.store, None, torch.device("cpu"))
    halves = choose_images(inputs.store, inputs.layer, config)
    return look(inputs, network, halves.image_I, None, config, QUIET)


def test_padding_is_tested_once_more_on_pictures_that_were_not_used(
    run: Path, swapped: str
) -> None:
    inputs = open_run(run, None, device=torch.device("cpu"))
    config = LabelConfig(padding_pictures=4, padding_images=2, workers=0)
    second, seen = open_second(inputs, swapped, config), looked_at(inputs, config)
    network = store_network(inputs.store, None, torch.device("cpu"))
    source = open_source(str(Path(swapped).parent / "photos"), seed=2)
    own, other = border_images(inputs.store)[1], border_images(second.inputs.store)[1]
    assert (len(own), len(other)) == (11, 12)
    assert len(seen.border.image_P) == 4

    def again(both_J: Any) -> list[Any]:
        return padding_once_more(inputs, second, network, seen, source, both_J, config, QUIET)

    none_J = np.zeros(len(second.image_J), dtype=bool)
    first, unseen = again(none_J)
    assert len(first.image_P) == len(unseen.image_P) == 4
    assert set(first.image_P) <= set(own) - set(seen.border.image_P)
    assert set(unseen.image_P) <= set(other)
    # Those of both stores are left out, and both sides have as many.
    kept = other[:3]
    first, unseen = again(np.isin(second.image_J, np.setdiff1d(other, kept)))
    assert set(unseen.image_P) == set(kept)
    assert len(first.image_P) == 3
    few = again(np.isin(second.image_J, other[1:]))
    assert all("at least 2 are needed" in one.left_out for one in few)
    assert all(np.isnan(one.mirrored.p(1)).all() for one in few)


def test_pictures_of_both_stores_are_found_in_little_memory(run: Path, swapped: str) -> None:
    inputs, config = open_run(run, None, device=torch.device("cpu")), LabelConfig(workers=0)
    second = open_second(inputs, swapped, config)
    sources = [
        find_pictures(one.manifest["images"], 2, None, QUIET)
        for one in (inputs.store, second.inputs.store)
    ]
    assert None not in sources
    found = in_both((inputs.store, sources[0], None, 54), (second, sources[1], None), 48)
    names = np.array(second.table.column("name").to_pylist())
    assert sorted(names[found]) == [f"n02123045/1-{number}.png" for number in range(2)]
    gone = in_both((inputs.store, None, None, 54), (second, None, None), 48)
    assert (gone == found).all(), "without pictures those of one name"
    assert sources[0] is not None
    size, images = 96, [number % 54 for number in range(540)]
    tracemalloc.start()
    hashes = pixel_hashes(sources[0], images, size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 540 * 3 * size**2 / 3
    assert len(set(hashes)) == 54
    assert hashes[:54] == hashes[54:108]


def test_a_second_store_of_another_kind_is_refused(
    run: Path, made: SimpleNamespace, tmp_path: Path
) -> None:
    made.photos(tmp_path / "more", made.classes, 5)
    wrong: dict[str, dict[str, Any]] = {
        "weights": {"weights": "random:3"},
        "the layer": {"layers": ("conv2d0",)},
    }
    for said, options in wrong.items():
        store = made.stored(tmp_path, "more", said.replace(" ", "_"), limit=4, **options)
        with pytest.raises(StoreError, match=said):
            analyze_label(run, unseen=str(store.path), out=tmp_path / "out")
    with pytest.raises(StoreError, match="expected --unseen to hold other pictures than the run's"):
        analyze_label(run, unseen=str(run.parent / "store"), out=tmp_path / "out")


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("preprocessing", ("model", "preprocessing")),
        ("arithmetic", ("model", "compute_dtype")),
        ("resizing", ("images", "resize")),
        ("dtype", ("dtype",)),
        ("positions", ("positions",)),
        ("input size", ("size",)),
    ],
)
def test_whatever_makes_other_rows_is_told(
    run: Path, swapped: str, tmp_path: Path, said: str, place: tuple[str, ...]
) -> None:
    shutil.copytree(swapped, tmp_path / "copy")
    path = tmp_path / "copy" / "manifest.json"
    manifest = json.loads(path.read_text())
    part = manifest
    for key in place[:-1]:
        part = part[key]
    assert part[place[-1]]
    part[place[-1]] = 7
    path.write_text(json.dumps(manifest))
    (tmp_path / "copy" / "COMPLETE").write_text(sha256(path) + "\n")
    inputs = open_run(run, None, device=torch.device("cpu"))
    open_second(inputs, swapped, LabelConfig())
    assert makers(manifest) != makers(inputs.store.manifest)
    with pytest.raises(StoreError, match=f"with {said} .* found 7"):
        open_second(inputs, str(tmp_path / "copy"), LabelConfig())
