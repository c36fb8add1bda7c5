"""What there is to say of a setting beside its type and default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from annotated_types import Ge, Le
from pydantic import Field
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class About:
    """What there is to say of a setting beside its type and default.

    Attributes:
        section: What it belongs to.
        text: What it is for.
        unit: Of its value.
        expected: What a usable value looks like; by default its type and bounds.
        otherwise: What counts where nothing is set, if the default does not say it.
        option: Its name among the command's options, if that is another.
        secret: Whether its value is never shown.
        may_be_empty: Whether an empty value in the environment says something.
    """

    section: str
    text: str
    unit: str = ""
    expected: str = ""
    otherwise: str = ""
    option: str = ""
    secret: bool = False
    may_be_empty: bool = False


def setting(
    section: str,
    text: str,
    *,
    default: Any,
    least: float | None = None,
    most: float | None = None,
    **more: Any,
) -> Any:
    """Return the field of a setting; ``more`` is of ``About``."""
    about = {"section": section, "text": text, **more}
    return Field(default, ge=least, le=most, json_schema_extra=about)


def about_field(field: FieldInfo) -> About:
    """Return what ``setting`` was told."""
    more = cast("dict[str, Any]", field.json_schema_extra)
    return About(**{"expected": _expected(field, more.get("unit", "")), **more})


def _expected(field: FieldInfo, unit: str) -> str:
    if field.annotation is bool:
        return "true or false"
    kind = "a number" if field.annotation is float else "a whole number"
    least = next((one.ge for one in field.metadata if isinstance(one, Ge)), None)
    most = next((one.le for one in field.metadata if isinstance(one, Le)), None)
    bounds = f", {least} or more" if most is None else f" from {least} to {most}"
    if unit == "share":
        return f"a share{bounds}"
    return f"{unit}: {kind}{bounds}" if unit else f"{kind}{bounds}"
