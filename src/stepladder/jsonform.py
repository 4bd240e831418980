"""A noun in; JSON values out, and back.

A noun whose JSON differs from its fields has `to_keys` (its JSON values, changed) and a static `from_keys`
(the JSON values of its fields, again).
"""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from stepladder.errors import StoreError

T = TypeVar("T")


def to_json(noun: Any) -> Any:
    """A noun as JSON values. NaN becomes null."""
    return _unstructure(noun)


def from_json(kind: type[T], value: Any) -> T:
    """A noun from JSON values; unknown or missing keys raise StoreError that lists all of them."""
    from cattrs import Converter, transform_error
    from cattrs.errors import BaseValidationError
    from cattrs.gen import make_dict_structure_fn

    converter = Converter(forbid_extra_keys=True, prefer_attrib_converters=False)

    def with_keys(noun: Any) -> Any:
        fields = make_dict_structure_fn(noun, converter, _cattrs_forbid_extra_keys=True)
        return lambda found, _: fields(
            noun.from_keys(dict(found)) if isinstance(found, dict) else found, noun
        )

    converter.register_structure_hook_factory(lambda noun: hasattr(noun, "from_keys"), with_keys)
    converter.register_structure_hook(float, lambda v, _: math.nan if v is None else float(v))
    converter.register_structure_hook_func(lambda t: t is Any, lambda v, _: v)
    for union in (float | int | str | bool, float | str, float | None, int | None):
        converter.register_structure_hook(union, lambda v, _: v)
    try:
        return converter.structure(value, kind)
    except BaseValidationError as error:
        problems = "; ".join(transform_error(error, path="$"))
        raise StoreError(f"this is not a {kind.__name__}", got=problems) from error


def _unstructure(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        keys = {name: _unstructure(getattr(value, name)) for name in value.__dataclass_fields__}
        return value.to_keys(keys) if hasattr(value, "to_keys") else keys
    if isinstance(value, Mapping):
        return {str(key): _unstructure(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_unstructure(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
