"""Config dataclasses to JSON and back, strictly: unknown or missing keys are errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from isae.errors import ConfigError

T = TypeVar("T")


def to_json(config: Any) -> dict[str, Any]:
    """A config dataclass as JSON types, in field order; tuples become lists."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"expected a dataclass instance, got {type(config).__name__}")
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_json(cls: type[T], values: Mapping[str, Any]) -> T:
    """Rebuild the config dataclass `cls` from `to_json`'s output; its own checks run again.

    Raises ConfigError for keys that `cls` does not have, and for keys without a default that
    `values` lacks: both mean that another version wrote the file.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    required = {
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    missing = sorted(required - set(values))
    if unknown or missing:
        raise ConfigError(
            f"{cls.__name__} expects the keys {', '.join(fields)}; found unknown keys {unknown} "
            f"and missing keys {missing}; the file was written by another version or edited"
        )
    return cls(**{name: _frozen(value) for name, value in values.items()})


def check(condition: bool, what: str, found: object, remedy: str = "") -> None:
    """Raise ConfigError unless `condition`: 'expected WHAT, found FOUND; REMEDY'."""
    if not condition:
        raise ConfigError(f"expected {what}, found {found!r}" + (f"; {remedy}" if remedy else ""))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
