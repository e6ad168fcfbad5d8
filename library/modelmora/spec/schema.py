"""What all models of our resources share: how they are named, frozen and bounded, and the scalar types in them.

Attributes are snake_case in Python and camelCase in YAML. Unknown fields are refused, unless the reader asks otherwise.
Every bound stands in the type, so that the CustomResourceDefinitions say the same as Python does.
"""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel

API_GROUP = "modelmora.io"
API_VERSION = f"{API_GROUP}/v1alpha1"

SEGMENT = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*"
MODEL_ID = rf"^{SEGMENT}(/{SEGMENT})*$"
# https://semver.org, question 2 in its list
SEMANTIC_VERSION = (
    r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(-(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$"
)
SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
SOURCE_URI = r"^(hf|s3|https|pvc|file|package)://[^\s\x00-\x1f]+$"
ENGINES = ("sentence-transformers",)  # the built-in ones; the worker's catalog has the same
ENGINE = rf"^(python:[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*|{'|'.join(ENGINES)})$"
QUANTITY = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?$"
# Long enough for any name that Kubernetes allows as the value of a label, which a worker's pod carries.
MAX_NAME = 63
MAX_MODEL_ID = 253
MAX_TEXT = 4096
MAX_INT32 = 2_147_483_647
MAX_INTEGER = 9_007_199_254_740_991  # an API server compares bounds as floating-point numbers, exact up to here

_SUFFIXES = {"": Decimal(1), "n": Decimal(10) ** -9, "u": Decimal(10) ** -6, "m": Decimal(10) ** -3}
_SUFFIXES |= {suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)}
_SUFFIXES |= {f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)}


class Part(BaseModel):
    """A part of a resource: immutable, camelCase in YAML, no unknown fields."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        allow_inf_nan=False,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    def manifest(self) -> dict[str, Any]:
        """Names and values as in YAML; what is not set is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def quantity_value(quantity: str) -> Decimal:
    """The number that a Kubernetes quantity such as "1.5Gi" or "250m" means.

    Raises:
        ValueError: it is no quantity, or negative.
    """
    if not re.fullmatch(QUANTITY, quantity):
        raise ValueError("a quantity is a number ≥ 0 with a unit, for example 512Mi, 2Gi or 500m")
    number = re.match(r"[0-9.]+", quantity)
    suffix = quantity[number.end() if number else 0 :]
    if suffix[:1] in {"e", "E"} and suffix not in {"E", "Ei"}:
        return Decimal(quantity)
    return Decimal(quantity.removesuffix(suffix)) * _SUFFIXES[suffix]


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _quantity(value: str) -> str:
    quantity_value(value)
    return value


Quantity = Annotated[
    str,
    BeforeValidator(_number_as_text),
    AfterValidator(_quantity),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": QUANTITY, "minimum": 0, "maxLength": 32}),
]

Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME, pattern=SUBDOMAIN)]
SecretName = Annotated[str, Field(min_length=1, max_length=253, pattern=SUBDOMAIN)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Seconds = Annotated[int, Field(ge=0, le=MAX_INT32)]
PositiveSeconds = Annotated[int, Field(ge=1, le=MAX_INT32)]
Count = Annotated[int, Field(ge=0, le=MAX_INT32)]
PositiveCount = Annotated[int, Field(ge=1, le=MAX_INT32)]
Bytes = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Moment = AwareDatetime
# Any JSON object; a cluster stores it as it is. Atomic, since server-side apply would make null of one that becomes {}.
Anything = Annotated[
    dict[str, JsonValue],
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True, "x-kubernetes-map-type": "atomic"}),
]
