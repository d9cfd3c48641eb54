"""Identity of a stage's output and of its units: all that they are a function of, and the hash of it.

The hash of an output's identity is its fingerprint, that of a unit's is its key. Not in an identity: source code (a
stage raises its REVISION by hand), worker counts, batch sizes of data stages, paths of corpora and models, log level.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowse.files import sha256_file
from flowse.json_records import WrongShape, from_fields
from flowse.outside import DigestOf, digest_now
from flowse.pretrained import resolve

_CONFIG, _INPUT = "config.", "input "
KEY_DIGITS = 20
LAYOUT = 2
"""How outputs lie in the workspace; 1: the units of an output lay in its own folder."""


@dataclass(frozen=True)
class Identity:
    """Everything that a stage's output is a function of.

    Attributes:
        stage: Name of the stage.
        revision: Its REVISION.
        seed: The experiment's seed.
        settings: Plain JSON values of its Config by dotted key, e.g. `{"model (sha256)": "10d1…", "rules.lines": 3}`.
        inputs: Digest of each output that the stage reads, by that stage's name.
        layout: See `LAYOUT`.
    """

    stage: str
    revision: int
    seed: int
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    layout: int = LAYOUT

    @classmethod
    def of(
        cls,
        stage: str,
        revision: int,
        config: Any,
        seed: int,
        inputs: Mapping[str, str],
        digest_of: DigestOf = digest_now,
    ) -> Identity:
        """Collect what an output will be a function of.

        Args:
            stage: Name of the stage.
            revision: Its REVISION.
            config: The stage's Config; see `settings_of`.
            seed: The experiment's seed.
            inputs: Digest of each output that the stage reads, by that stage's name.
            digest_of: Returns the hash of files outside of the workspace.
        """
        settings = _digested(setting for setting in settings_of(config, digest_of=digest_of) if setting.changes_output)
        return cls(stage, revision, seed, settings, dict(sorted(inputs.items())))

    @property
    def fingerprint(self) -> str:
        """Hash of the identity, 16 hexadecimal digits: the name of the output's folder."""
        encoded = json.dumps(self.to_json(), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
        return hashlib.sha256(encoded).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Return the flat form that is hashed and that stands in records: keys "config.<key>" and "input <stage>"."""
        return {
            "stage": self.stage,
            "revision": self.revision,
            "seed": self.seed,
            "layout": self.layout,
            **{f"{_CONFIG}{key}": value for key, value in self.settings.items()},
            **{f"{_INPUT}{stage}": digest for stage, digest in self.inputs.items()},
        }

    @classmethod
    def from_json(cls, content: Any) -> Identity:
        """Read the flat form.

        Raises:
            WrongShape: A key is missing or unknown, or a value has another type.
        """
        if not isinstance(content, dict):
            raise WrongShape(f"{content!r} is not an object with keys")
        nested: dict[str, Any] = {"settings": {}, "inputs": {}, "layout": 1}
        for key, value in content.items():
            if key.startswith(_CONFIG):
                nested["settings"][key.removeprefix(_CONFIG)] = value
            elif key.startswith(_INPUT):
                nested["inputs"][key.removeprefix(_INPUT)] = value
            else:
                nested[key] = value
        return from_fields(cls, nested)


def _digested(settings: Iterable[Setting]) -> dict[str, Any]:
    """Return settings by key as plain JSON values; the hash of a model stands for its name."""
    values = {
        f"{setting.key} (sha256)" if setting.is_model and setting.value else setting.key: (
            model_digest(str(setting.value)) if setting.is_model and setting.value else setting.value
        )
        for setting in settings
    }
    plain: dict[str, Any] = json.loads(json.dumps(values))  # equal to what is read from a file
    return plain


def unit_settings(config: Any) -> dict[str, Any]:
    """Return the settings that enter the keys of a stage's units, by dotted key.

    A field with the metadata `unit=False` does not: it only decides which units there are.
    """
    return _digested(setting for setting in settings_of(config) if setting.changes_output and setting.changes_units)


class UnitKeys:
    """Gives each unit of a stage its key: a hash of all that the unit's files are a function of."""

    def __init__(self, stage: str, revision: int = 0, settings: Mapping[str, Any] | None = None, seed: int = 0) -> None:
        """Hash what all units of the stage have in common.

        Args:
            stage: Name of the stage.
            revision: Its REVISION.
            settings: As `unit_settings` gives them.
            seed: The experiment's seed.
        """
        common = json.dumps([stage, revision, settings or {}, seed], sort_keys=True, ensure_ascii=False)
        self._common = hashlib.sha256(common.encode())

    def __call__(self, content: str) -> str:
        """Return the key of the unit with this content, 20 hexadecimal digits."""
        digest = self._common.copy()
        digest.update(json.dumps(content).encode())
        return digest.hexdigest()[:KEY_DIGITS]


def content_of(*values: Any) -> str:
    """Hash plain values, dataclasses and paths, e.g. for `Unit.content`; equal values have equal hashes."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} has no plain form to be hashed")


@dataclass(frozen=True)
class Setting:
    """One value of a configuration.

    Attributes:
        key: Dotted, e.g. "mel.sample_rate" or "noise[0].root".
        value: Plain; tuples have become lists.
        changes_output: Whether the output depends on it.
        is_model: Whether it names a model by embedded name, file or folder.
        changes_units: Whether the content of a unit depends on it; if not, it only decides which units there are.
    """

    key: str
    value: Any
    changes_output: bool = True
    is_model: bool = False
    changes_units: bool = True


def settings_of(config: Any, prefix: str = "", *, digest_of: DigestOf | None = None) -> Iterator[Setting]:
    """Yield every value of a configuration.

    Dataclasses, lists of dataclasses and mappings are followed down to their values. A field's metadata says more:
    `fingerprint=False`: nothing below it changes the output; `fingerprint="unless default"`: neither does its default,
    because the field was added later and its default means what was done before; `model=True`: it names a model;
    `unit=False`: it only decides which units there are.

    Args:
        config: A dataclass.
        prefix: Begins every key.
        digest_of: Returns the hash of files outside of the workspace. Given, it is asked for what `outside()` of each
            dataclass names that has such a method; the hashes come under keys "content of <name>".
    """
    yield from _in_dataclass(Setting(prefix, None), config, digest_of)


def _in_dataclass(above: Setting, config: Any, digest_of: DigestOf | None) -> Iterator[Setting]:
    """Yield what is below a dataclass; `above` says what holds for all of it, and its key begins every key."""
    for field in dataclasses.fields(config):
        value, enters = getattr(config, field.name), field.metadata.get("fingerprint", True)
        counts = bool(enters) and not (enters == "unless default" and value == field.default)
        below = Setting(
            above.key + field.name,
            value,
            above.changes_output and counts,
            field.metadata.get("model", False),
            above.changes_units and field.metadata.get("unit", True),
        )
        yield from _in_value(below, digest_of)
    if digest_of is not None and above.changes_output and hasattr(config, "outside"):
        for name, outside in config.outside().items():
            yield Setting(f"{above.key}content of {name}", digest_of(outside))


def _in_value(setting: Setting, digest_of: DigestOf | None) -> Iterator[Setting]:
    key, value = setting.key, setting.value
    if dataclasses.is_dataclass(value):
        yield from _in_dataclass(dataclasses.replace(setting, key=f"{key}."), value, digest_of)
    elif isinstance(value, list | tuple) and any(dataclasses.is_dataclass(item) for item in value):
        for index, item in enumerate(value):
            yield from _in_dataclass(dataclasses.replace(setting, key=f"{key}[{index}]."), item, digest_of)
    elif isinstance(value, Mapping):
        for name, item in sorted(value.items()):
            yield from _in_value(dataclasses.replace(setting, key=f"{key}.{name}", value=item), digest_of)
    else:
        yield dataclasses.replace(setting, value=list(value) if isinstance(value, tuple) else value)


def model_digest(name_or_path: str) -> str:
    """Hash the files of a model.

    Args:
        name_or_path: Embedded name, file or folder. Any other name (of a hub) cannot be hashed and stands for itself.
    """
    try:
        root = resolve(name_or_path)
    except FileNotFoundError:
        return f"name:{name_or_path}"
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        if path.suffix == ".md":  # a model card changes no output
            continue
        stat = path.stat()
        digest.update(f"{path.relative_to(root)}:{_sha256_cached(path, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=256)
def _sha256_cached(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_file(path)
