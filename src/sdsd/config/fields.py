"""What the sections of a configuration are made of: types, and the two kinds of keys."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

Tokens = Annotated[int, Meta(ge=1, le=32768)]
Temperature = Annotated[float, Meta(ge=0.0, le=2.0)]
Fraction = Annotated[float, Meta(gt=0.0, le=1.0)]
Seconds = Annotated[float, Meta(gt=0.0)]
Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0.0)]
FileName = Annotated[str, Meta(extra={"file": "always"})]
"""Relative to the file of the configuration, unless it begins with `hf:`."""
NameOrFile = Annotated[str, Meta(extra={"file": "if a path"})]
"""The name of something packaged, or a file: `some/path` or `name.md`."""


def identity(description: str, **bounds: Any) -> Meta:
    """Describe a key that decides what a run makes: a run directory belongs to one value of it."""
    return Meta(description=description, **bounds)


def execution(description: str | None = None, **bounds: Any) -> Meta:
    """Describe a key, or mark a section, that only decides how a run is carried out."""
    return Meta(description=description, extra={"execution": True}, **bounds)


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all sections share: immutable, and no misspelt key goes unnoticed."""
