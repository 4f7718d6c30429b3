"""Classification data sets of torchvision, by name, from files that are already on the disk."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from isae.errors import ImageError, unknown_name
from isae.images.base import U8, BadImage, ImageSource, UnreadableError, digest
from isae.images.pixels import guarded, to_rgb

NAMES = (
    *("Caltech101", "Caltech256", "CIFAR10", "CIFAR100", "CLEVRClassification", "Country211"),
    *("DTD", "EMNIST", "EuroSAT", "FakeData", "FashionMNIST", "FER2013", "FGVCAircraft"),
    *("Flowers102", "Food101", "GTSRB", "ImageNet", "Imagenette", "KMNIST", "LFWPeople", "MNIST"),
    *("OxfordIIITPet", "PCAM", "Places365", "RenderedSST2", "SEMEION", "StanfordCars", "STL10"),
    *("SUN397", "SVHN", "USPS"),
)
"""Data sets whose items are a picture and a class."""

FAKE_SIDE = 64
_FORM = "torchvision:NAME:FOLDER[:SPLIT] or torchvision:FakeData:N"
_PROBES = 16


class TorchvisionReader:
    """Opens the data set on first use in each process, and reads its items by number."""

    def __init__(self, name: str, root: str, split: str) -> None:
        self.name, self.root, self.split = name, root, split
        self._data: Any = None

    @property
    def data(self) -> Any:
        """The torchvision data set; raises ImageError where its files are missing."""
        if self._data is None:
            self._data = _open_data(self.name, self.root, self.split)
        return self._data

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_data": None}

    def read(self, address: int) -> U8:
        """Pixels uint8 [H, W, 3] of one item; raises UnreadableError with the reason."""
        return guarded(lambda: self._pixels(address))

    def _pixels(self, address: int) -> U8:
        image = self.data[address][0]
        if not isinstance(image, Image.Image):
            raise UnreadableError(f"the data set gives a {type(image).__name__}, not a picture")
        return to_rgb(image)


class TorchvisionSource(ImageSource):
    """`torchvision:NAME:FOLDER[:SPLIT]`; the data sets that load from arrays stay in memory.

    Never downloads. Workers import torch and torchvision, so they start in seconds instead of a
    fraction of one. Raises ImageError where the files are missing, UnknownNameError for a name.
    """

    kind = "torchvision"

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self.columns = {}
        name, root, self.split = _parse(spec)
        self.reader: TorchvisionReader = TorchvisionReader(name, root, self.split)
        self.targets = _targets(self.reader.data)
        names = _first(self.reader.data, ("classes", "categories"))
        self.classes = [str(name) for name in names] if isinstance(names, Sequence) else []

    def __len__(self) -> int:
        return len(self.reader.data)

    def row(self, index: int) -> dict[str, Any]:
        """'name' is data set, split and number; 'label' the class's name, else its number."""
        position = self.checked(index)
        stem = "/".join(part for part in (self.reader.name, self.split) if part)
        return {"name": f"{stem}/{position:08d}", "label": self._label(position)}

    def address(self, index: int) -> int:
        """The number of the item."""
        return self.checked(index)

    def fingerprint(self) -> str:
        """Hash of name, split, length, labels (where listed), and the pixels of 16 pictures."""
        length = len(self)
        probes = sorted({length * k // _PROBES for k in range(_PROBES)})
        parts: list[object] = [self.kind, self.reader.name, self.split, length]
        parts += self.classes if self.targets is None else [*self.classes, *self.targets]
        return digest([*parts, *(self._probe(probe) for probe in probes)])

    def _probe(self, position: int) -> bytes:
        try:
            return self.load(position).tobytes()
        except BadImage as error:
            return error.reason.encode()

    def _label(self, position: int) -> str:
        value = self.reader.data[position][1] if self.targets is None else self.targets[position]
        number = int(value)
        return self.classes[number] if 0 <= number < len(self.classes) else str(number)


def _parse(spec: str) -> tuple[str, str, str]:
    name, _, rest = spec.removeprefix("torchvision:").partition(":")
    if name not in NAMES:
        raise unknown_name("torchvision data set", name, NAMES)
    if not rest:
        raise ImageError(f"expected {_FORM}, found '{spec}'; add the folder with its files")
    root, _, split = rest.rpartition(":") if ":" in rest else (rest, "", "")
    if name == "FakeData" and not (root.isdecimal() and int(root) > 0):
        raise ImageError(f"expected {_FORM} with N of at least 1, found '{spec}'")
    return name, root, split


def with_root(spec: str, change: Callable[[str], str]) -> str:
    """`torchvision:NAME:FOLDER[:SPLIT]` with `change` made to the folder."""
    name, root, split = _parse(spec)
    if name == "FakeData":
        return spec
    return ":".join(["torchvision", name, change(root), *([split] if split else [])])


def _open_data(name: str, root: str, split: str) -> Any:
    from torchvision import datasets

    kind = getattr(datasets, name)
    if name == "FakeData":
        return kind(int(root), (3, FAKE_SIDE, FAKE_SIDE))
    parameters = inspect.signature(kind).parameters
    options = _split_option(name, split, "train" in parameters, "split" in parameters)
    try:
        return kind(root, **options)
    except Exception as error:
        # torchvision's constructors raise whatever their parsers meet: RuntimeError, KeyError, ...
        remedy = "put its files there (isae does not download data sets)"
        if "download" in parameters:
            remedy = f"fetch it once: torchvision.datasets.{name}({root!r}, download=True)"
        found = " ".join(str(error).split()) if Path(root).is_dir() else "no such folder"
        raise ImageError(
            f"expected the files of torchvision's {name} in '{root}', found: {found}; {remedy}"
        ) from error


def _split_option(name: str, split: str, has_train: bool, has_split: bool) -> dict[str, Any]:
    if not split:
        return {"split": "balanced"} if name == "EMNIST" else {}
    if has_split:
        return {"split": split}
    if has_train and split in ("train", "test"):
        return {"train": split == "train"}
    known = "train or test" if has_train else "no split"
    raise ImageError(f"expected {known} for torchvision's {name}, found '{split}'; change it")


def _targets(data: Any) -> list[int] | None:
    """Class numbers of all items without decoding them, where the data set has such a list."""
    values = _first(data, ("targets", "_labels", "labels", "y"))
    if values is not None and len(values) == len(data):
        return [int(value) for value in values]
    samples = _first(data, ("samples", "_samples"))
    if samples is not None and len(samples) == len(data):
        return [int(sample[1]) for sample in samples]
    return None


def _first(data: Any, names: Sequence[str]) -> Any:
    found = (getattr(data, name, None) for name in names)
    return next((value for value in found if value is not None), None)
