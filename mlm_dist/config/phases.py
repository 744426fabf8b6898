"""Phases of a run: partial configs, each with a name and a duration, that follow each other."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlm_dist import names
from mlm_dist.config import yaml_text
from mlm_dist.config.checks import Section
from mlm_dist.config.corpus import CorpusConfig, RowsConfig
from mlm_dist.config.duration import Duration
from mlm_dist.config.learning import BatchConfig, ContrastiveConfig, MaskingConfig, ModelConfig, OptimConfig
from mlm_dist.config.value_types import fits, shown, type_hints
from mlm_dist.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from mlm_dist.config.tree import Config

# Keys that a phase may set besides its name and duration; those of a section that is None, all of them.
_SECTIONS: dict[str, tuple[str, ...] | None] = {
    "rows": None,
    "masking": None,
    "contrastive": None,
    "batch": None,
    "optim": ("lr", "warmup", "schedule", "floor"),
    "model": ("freeze_embeddings", "trainable_layers", "rope_theta"),
}
_SHORT = {"optim.duration": "duration", "corpus.mix": "mix"}  # keys of a run, as a phase has them
_KEYS = ("name", "duration", "mix", "objective", *_SECTIONS)


@dataclass(frozen=True)
class Phase:
    """A phase, with the values of the run where it sets none.

    Args:
        name: Its name; empty for the only phase of a config without phases.
        duration: How long it lasts.
        objective: What is learnt.
        mix: Shares of the sources.
        rows: How documents become rows.
        masking: Which tokens are predicted.
        contrastive: What is learnt from pairs of texts.
        batch: The batch.
        optim: Its learning rate; the other keys are those of the run.
        model: What it freezes, and its rotary angles; the other keys are those of the run.
    """

    name: str
    duration: Duration
    objective: str
    mix: Mapping[str, float]
    rows: RowsConfig
    masking: MaskingConfig
    contrastive: ContrastiveConfig
    batch: BatchConfig
    optim: OptimConfig
    model: ModelConfig

    def key(self, name: str) -> str:
        """The key of one of its values, see `key_of`."""
        return key_of(self.name, name)

    @property
    def freezes_embeddings(self) -> str | None:
        """The key by which it does not train the embeddings; None if it trains them."""
        if self.model.trainable_layers is not None:
            return self.key("model.trainable_layers")
        return self.key("model.freeze_embeddings") if self.model.freeze_embeddings else None

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Inside, errors about a key name it as one of this phase."""
        try:
            yield
        except (ConfigError, ModelError) as error:
            own = rf"(?:{'|'.join(_SECTIONS)})(?:\.\w+|(?=:))|objective|corpus\.mix"
            raise type(error)(re.sub(rf"^(?:{own})", lambda found: self.key(found[0]), str(error))) from None

    def check(self) -> None:
        """Refuse values that contradict each other.

        Raises:
            ConfigError: Names the keys, as those of a run.
        """
        length, initial = self.rows.max_length, self.batch.initial_length
        halves = [length >> k for k in range(length.bit_length()) if length % (1 << k) == 0 and length >> k >= 8]
        if initial is not None and initial not in halves:
            expected = ", ".join(map(str, halves))
            raise ConfigError(f"batch.initial_length: must be one of {expected}, given rows.max_length, got {initial}")
        if self.duration.unit == "hours" and self.masking.final_probability is not None:
            raise ConfigError(
                "optim.duration in hours and masking.final_probability exclude each other, because masks depend on the "
                "number of samples; write it in epochs, steps or tokens"
            )


def key_of(phase: str, key: str) -> str:
    """A key of a run as the key of a phase, for messages.

    Args:
        phase: The name of the phase; empty for the only phase of a config without phases.
        key: The key of the run. Sources and tokenizer are those of the run in each phase.
    """
    if not phase or key.startswith(("corpus.source", "tokenizer.")):
        return key
    return f"phases.{phase}.{_SHORT.get(key, key)}"


def phases_of(config: Config) -> tuple[Phase, ...]:
    """The phases of a config; one without a name if it lists none.

    The warm-up and the ramp of the batch that the run sets are those of the first phase; later ones set their own.

    Raises:
        ConfigError: A phase has a wrong key or value; the message names the phase and the key.
    """
    duration = Duration.parse(config.optim.duration)
    sections = config.rows, config.masking, config.contrastive, config.batch
    first = Phase("", duration, config.objective, config.corpus.mix, *sections, config.optim, config.model)
    if not config.phases:
        return (first,)
    if config.optim.duration != OptimConfig().duration:
        raise ConfigError("optim.duration and phases exclude each other; give the duration of each phase")
    whole = dataclasses.replace(config.batch, initial_size=None, initial_length=None, ramp_tokens=None)
    later = dataclasses.replace(first, optim=dataclasses.replace(config.optim, warmup=0.0), batch=whole)
    found = [_phase(given, later if i else first, i, config.corpus) for i, given in enumerate(config.phases)]
    for i, phase in enumerate(found):
        if phase.name in [other.name for other in found[:i]]:
            raise ConfigError(f"phases: two have the name {phase.name}; give each its own")
    return tuple(found)


def is_flag(word: str) -> bool:
    """Whether a flag is about a key of a phase, such as `--phases.decay.optim.lr=1e-4`."""
    return word.startswith("--phases.")


def with_flags(phases: Sequence[Mapping[str, Any]], flags: Sequence[str]) -> list[dict[str, Any]]:
    """Phases with the values of flags about their keys.

    Args:
        phases: The phases of the files.
        flags: `--phases.NAME.KEY=VALUE`.

    Raises:
        ConfigError: There is no phase of that name, or a flag has no value.
    """
    import yaml

    changed = [dict(phase) for phase in phases]
    for flag in flags:
        key, has_value, text = flag.removeprefix("--phases.").partition("=")
        if not has_value:
            raise ConfigError(f"phases.{key}: give a value")
        name, *path = key.split(".")
        try:
            yaml_text.check(text, "", {}, f"phases.{key}")
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        phase = next((one for one in changed if one.get("name") == name), None)
        if phase is None:
            known = ", ".join(str(one.get("name")) for one in changed) or "none; a file of --config lists phases"
            raise ConfigError(f"phases.{name}: there is no such phase; there is {known}")
        if not path:
            raise ConfigError(f"phases.{name} is a phase; give one of its keys, such as --phases.{name}.duration")
        for part in path[:-1]:
            inner = phase.get(part)
            phase[part] = dict(inner) if isinstance(inner, Mapping) else {}
            phase = phase[part]
        phase[path[-1]] = value
    return changed


def _phase(given: Mapping[str, Any], default: Phase, index: int, corpus: CorpusConfig) -> Phase:
    name = given.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w-]*", name):
        raise ConfigError(f"phases: phase {index + 1} needs a name of letters, digits, _ and -, got {shown(name)}")
    phase = dataclasses.replace(default, name=name)
    for key in given:
        if key not in _KEYS:
            raise ConfigError(f"{phase.key(key)}: unknown key; {names.nearest(key, _KEYS)}")
    if "duration" not in given:
        raise ConfigError(f"{phase.key('duration')}: give one such as '10000 steps' or '2B tokens'")
    objective = given.get("objective", default.objective)
    if not isinstance(objective, str):
        raise ConfigError(f"{phase.key('objective')}: expected str, got {shown(objective)}")
    with phase.named():
        duration = Duration.parse(OptimConfig(duration=given["duration"]).duration)
        mix = dataclasses.replace(corpus, mix=given.get("mix", default.mix)).mix
        sections: dict[str, Any] = {
            section: _section(default, section, given.get(section, {})) for section in _SECTIONS
        }
        found = dataclasses.replace(phase, duration=duration, objective=objective, mix=mix, **sections)
        found.check()
    return found


def _section(default: Phase, section: str, given: Any) -> Section:
    """A section of a phase: that of the run with some other values."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"{section}: expected keys and values below it, got {shown(given)}")
    known: Section = getattr(default, section)
    kind: Any = type(known)
    kinds, values = type_hints(kind), dict(given)
    allowed = _SECTIONS[section] or [item.name for item in dataclasses.fields(known)]
    for name, value in given.items():
        if name not in allowed:
            only = f"a phase sets {', '.join(allowed)} only" if name in kinds else names.nearest(str(name), allowed)
            raise ConfigError(f"{section}.{name}: {'has no effect here' if name in kinds else 'unknown key'}; {only}")
        if isinstance(value, str) and fits(1.5, kinds[name]):
            with contextlib.suppress(ValueError):  # YAML 1.1 reads 1e-3 as a text
                values[name] = float(value)
    return dataclasses.replace(known, **values)
