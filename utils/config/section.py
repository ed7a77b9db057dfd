"""What the parts of a config have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=8)]
Age = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]


def says(expected: str) -> dict[str, Any]:
    """What error messages say was expected, where the type alone would not tell."""
    return {"x-expected": expected}


Name = Annotated[str, Field(min_length=1, json_schema_extra=says("a name"))]
FileName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$",
        json_schema_extra=says("a folder name of letters, digits, '.', '_' and '-'"),
    ),
]


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Component(Section):
    """Something chosen by name, and its arguments."""

    model_config = ConfigDict(json_schema_extra=says('an object {"type": NAME, "args": {…}}'))

    type: Name
    """Name of the class or function."""
    args: dict[str, Any] = {}
    """Its arguments, checked against its signature."""
