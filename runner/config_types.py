"""What pages are made of: sections, and the types of single values, their ranges and forms."""

from __future__ import annotations

import re
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, WithJsonSchema


class Section(BaseModel):
    """A part of the configuration; unknown keys are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, strict=False)


Finite = Field(allow_inf_nan=False)
Positive = Annotated[float, Strict(), Gt(0), Finite]
Fraction = Annotated[float, Strict(), Gt(0), Lt(1), Finite]
NonNegative = Annotated[float, Strict(), Ge(0), Finite]


def integral(value: Any) -> Any:
    """Return a whole number as an int, anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, Strict(), Ge(1), BeforeValidator(integral)]
Seed = Annotated[int, Strict(), Ge(0), Lt(2**32), BeforeValidator(integral)]


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if not pair[0] < pair[1]:
        raise ValueError("must be [low, high] with low < high")
    return pair


Range = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]


def _is_device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise ValueError("must be auto, cpu, mps, cuda or cuda:<index>")
    return text


def _is_name(text: str) -> str:
    if not re.fullmatch(r"\w[\w .+-]{0,99}", text):
        raise ValueError("must be up to 100 letters, digits, '.', '_', '+', '-' or spaces, a letter or digit first")
    return text


_URI_SCHEMES = ("http", "https", "postgresql", "mysql", "mssql")


def _is_uri(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    known = scheme == "sqlite" or scheme.partition("+")[0] in _URI_SCHEMES
    if not known or not separator or not rest.strip("/"):
        raise ValueError(
            "must be sqlite:///<file>, http://<host>:<port>, postgresql://<user>@<host>/<database> or null"
        )
    return text


def _is_command(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError("must be a shell command or null")
    return text


def _as_loss(value: Any) -> Any:
    """Read a loss as a list on a page spells it: "nan" and "Infinity" are numbers here, null is none."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"[+-]?(nan|inf|infinity)", value, re.I) else value


_ANY_NUMBER = WithJsonSchema({"type": "number", "format": "loss"})
Loss = Annotated[float, Strict(), BeforeValidator(_as_loss), _ANY_NUMBER]
Device = Annotated[str, AfterValidator(_is_device)]
Name = Annotated[str, AfterValidator(_is_name)]
Uri = Annotated[str, AfterValidator(_is_uri)]
Command = Annotated[str, AfterValidator(_is_command)]
