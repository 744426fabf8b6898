"""A transformers configuration constructed again with other fields, so that the fields derived from them follow."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlm_dist.errors import ModelError, reason
from mlm_dist.names import nearest

KEY = "model.overrides"
# Names of lists with an entry for each layer. Any other list may have as many entries as there are layers by chance.
_PER_LAYER = ("layer", "attention_window")
# Fields that count layers. Each takes time to build, even without memory.
_COUNTS = ("layers", "groups", "group_num", "num_blocks")
# More than any model has.
MAX_LAYERS, MAX_NUMBER, MAX_PARAMETERS = 1024, 1_000_000_000, 100_000_000_000
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def changed(config: Any, overrides: Mapping[str, Any], key: str = KEY) -> Any:
    """The configuration with some fields changed, constructed again.

    A field that the class derived (head_dim, layer_types, rotary parameters, key and value heads, ...) is derived
    again. A list with an entry for each layer that is not the class's own is cut, or continued by its period. The
    fields of a nested configuration are given as a mapping.

    Args:
        config: A transformers configuration; it is not changed.
        overrides: {field: value}.
        key: The config key of the fields, for messages.

    Raises:
        ModelError: There is no such field, its value has the wrong type, or the fields contradict each other.
    """
    if not overrides:
        return config
    values: dict[str, Any] = {}
    for name, value in overrides.items():
        field = config.attribute_map.get(name, name)
        if field in values and values[field] != value:
            raise ModelError(f"{key}.{name}: the configuration calls this field {field}, which is given as well")
        values[field] = _checked(config, name, value, key)
    properties = {name: values.pop(name) for name in list(values) if _is_property(config, name)}
    fields = _given(config) | values
    _fit_layers(config, fields, values)
    try:
        made = type(config)(**fields, name_or_path=config.name_or_path)
        for name, value in properties.items():
            setattr(made, name, value)
    except Exception as error:  # transformers checks combinations of fields with errors of its own
        raise ModelError(f"{key}: {config.model_type} cannot be built with them ({_reason(error)})") from None
    if (count := num_parameters(made)) > MAX_PARAMETERS:
        names = ", ".join(f"{name} {value}" for name, value in values.items() if isinstance(value, int))
        raise ModelError(f"{key}: {names} give a model of {count:,} parameters or more; lower them")
    for name, value in (values | properties).items():
        if isinstance(value, bool | int | float | str) and getattr(made, name) != value:
            raise ModelError(
                f"{key}.{name}: a {config.model_type} configuration derives this field from others, which makes it "
                f"{getattr(made, name)}; change those"
            )
    return made


def num_parameters(config: Any) -> int:
    """The parameters of embeddings and layers that a configuration has at least, without biases and norms."""
    vocabulary, hidden, layers, inside, length = (
        value if isinstance(value := getattr(config, name, 0), int) and value > 0 else 0
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "max_position_embeddings")
    )
    layers = min(layers, getattr(config, "num_hidden_groups", layers) or layers)  # ALBERT's layers share weights
    width = min(hidden, getattr(config, "embedding_size", hidden) or hidden)
    return (vocabulary + length) * width + layers * hidden * (4 * hidden + 2 * inside)


def _numbers(value: Any) -> Iterator[int | float]:
    """All numbers in a value."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, int | float):
        yield value


def accepts(config: Any, field: str, value: object) -> bool:
    """Whether a field of the configuration may have this value."""
    try:
        setattr(copy.copy(config), field, value)
    except Exception:  # transformers checks types with errors of its own
        return False
    return True


def _has(config: Any, name: str) -> bool:
    return name in _names(config)


def _names(config: Any) -> set[str]:
    """Every name under which a field of the configuration can be set."""
    fields = {name for name in vars(config) if not name.startswith("_")}
    properties = {name for kind in type(config).__mro__ for name in vars(kind) if _is_property(config, name)}
    return fields | properties | {field.name for field in dataclasses.fields(config)} | set(config.attribute_map)


def _is_property(config: Any, name: str) -> bool:
    found = getattr(type(config), name, None) if not name.startswith("_") else None
    return isinstance(found, property) and found.fset is not None


def _checked(config: Any, name: str, value: Any, key: str) -> Any:
    """The value of a field, of the right type and size; a nested configuration if it is the mapping of one."""
    if not _has(config, name):
        names = sorted(_names(config))
        raise ModelError(f"{key}.{name}: a {config.model_type} configuration has no such field; {nearest(name, names)}")
    before = vars(config).get(name)
    if isinstance(value, Mapping) and hasattr(before, "sub_configs"):
        return changed(before, value, f"{key}.{name}")
    sizes = {*_SIZES, *(config.attribute_map.get(size, size) for size in _SIZES)}
    if name in sizes and isinstance(value, int) and value < 1:
        raise ModelError(f"{key}.{name}: must be at least 1, is {value}")
    most = MAX_LAYERS if any(part in name for part in _COUNTS) else MAX_NUMBER
    if any(not math.isfinite(number) or abs(number) > most for number in _numbers(value)):
        raise ModelError(f"{key}.{name}: its numbers must be finite and at most {most:,}")
    try:
        setattr(copy.deepcopy(config), name, value)
    except Exception as error:  # transformers checks types with errors of its own
        raise ModelError(f"{key}.{name}: {_reason(error)}") from None
    return copy.deepcopy(value)


def _given(config: Any) -> dict[str, Any]:
    """The fields from which the class derives all others, with their values."""
    known = {field.name: field for field in dataclasses.fields(config) if field.name in vars(config)}
    fields = {name: copy.deepcopy(vars(config)[name]) for name in known}
    skipped = {*known, *config.attribute_map, "model_type"}
    extra = {name: value for name, value in config.to_dict().items() if name not in skipped}
    may_be_derived = {name for name, field in known.items() if field.default is None and fields[name] is not None}
    plain = {name: value for name, value in fields.items() if name not in may_be_derived}
    try:
        derived = type(config)(**copy.deepcopy(plain))
    except Exception:  # the class needs one of them
        return fields | extra
    derived_extra = derived.to_dict()
    plain |= {
        name: fields[name]
        for name in may_be_derived
        if hasattr(fields[name], "sub_configs") or vars(derived)[name] != fields[name]
    }
    return plain | {name: value for name, value in extra.items() if derived_extra.get(name, extra) != value}


def _fit_layers(config: Any, fields: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Give each list of layers that is not overridden an entry for each layer."""
    name = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    before, after = getattr(config, name, None), values.get(name)
    if not isinstance(before, int) or not isinstance(after, int):
        return
    for field, value in fields.items():
        is_per_layer = isinstance(value, list | tuple) and any(part in field for part in _PER_LAYER)
        if is_per_layer and len(value) == before and field not in values:
            fields[field] = fitted(value, after)
        elif field == "per_layer_config" and isinstance(value, dict) and field not in values:
            fields[field] = {layer: part for layer, part in value.items() if int(layer) < after}


def fitted(layers: Sequence[Any], count: int) -> list[Any]:
    """A list of layers, cut to `count` entries or continued by its shortest period."""
    size = len(layers)
    period = next(p for p in range(1, size + 1) if all(layers[i] == layers[i % p] for i in range(size)))
    return [layers[i] if i < size else layers[i % period] for i in range(count)]


def _reason(error: BaseException) -> str:
    return reason(error.__cause__ or error)
