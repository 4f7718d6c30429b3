"""The tree over classes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from isae.analysis.label.config import LabelConfig
from isae.analysis.label.tree import PACKAGED, Tree, read_tree, superclasses
from isae.errors import ConfigError, DataError


def test_the_packaged_table_is_a_tree_with_wordnets_notice() -> None:
    tree = read_tree(None)
    leaves = set(tree.parent) - set(tree.parent.values())
    assert len(leaves) == 200
    assert [node for node, above in tree.parent.items() if not above] == ["n00001740"]
    assert tree.name("n02124075") == "Egyptian cat"
    assert "n02083346" in tree.ancestors("n02106662"), "a German shepherd is a canine"
    text = PACKAGED.read_text()
    for piece in ("Copyright 2006 by Princeton University", "AS IS", "hereby granted"):
        assert piece in text


def test_superclasses_are_nodes_above_some_but_not_all_labels() -> None:
    parent = {"r": "", "m": "r", "a": "m", "b": "m", "k": "a", "x": "k", "y": "k", "z": "b"}
    tree = Tree(parent, {node: node for node in parent})
    found = superclasses(tree, ["x", "y", "z", "x", "other"])
    assert found == {"k": frozenset("xy"), "m": frozenset("xyz")}
    assert superclasses(tree, ["x", "y"]) == {}
    assert tree.name("other") == "other"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a\tb\n", "header"),
        ("wnid\tparent\twords\nx\ty\n", "form"),
        ("wnid\tparent\twords\nx\ty\tex\n", "above 'x'"),
        ("wnid\tparent\twords\nx\ty\tex\ny\tx\twhy\n", "above itself"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, lines: str, message: str) -> None:
    (tmp_path / "tree.tsv").write_text(lines)
    with pytest.raises(DataError, match=message):
        read_tree(tmp_path / "tree.tsv")
    with pytest.raises(DataError, match="--tree"):
        read_tree(tmp_path / "none.tsv")


@pytest.mark.parametrize(
    "wrong", [{"alpha": 0}, {"min_gain": 1.0}, {"top": 0}, {"max_rows": 1}, {"workers": -1}]
)
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="--"):
        LabelConfig(**wrong)  # type: ignore[arg-type]
