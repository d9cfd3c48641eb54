"""Identity of a stage's output: everything that the output is a function of, and the hash of it, the fingerprint.

Not in an identity: source code (a stage raises its REVISION by hand), worker counts, batch sizes of data stages, paths
of corpora and models, log level.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowse.files import sha256_file
from flowse.json_records import WrongShape, from_fields
from flowse.pretrained import resolve

_CONFIG, _INPUT = "config.", "input "


@dataclass(frozen=True)
class Identity:
    """Everything that a stage's output is a function of.

    Attributes:
        stage: Name of the stage.
        revision: Its REVISION.
        seed: The experiment's seed.
        settings: Plain JSON values of its Config by dotted key, e.g. `{"model (sha256)": "10d1…", "rules.lines": 3}`.
        inputs: Digest of each output that the stage reads, by that stage's name.
    """

    stage: str
    revision: int
    seed: int
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]

    @classmethod
    def of(cls, stage: str, revision: int, config: Any, seed: int, inputs: Mapping[str, str]) -> Identity:
        """Collect what an output will be a function of.

        Args:
            stage: Name of the stage.
            revision: Its REVISION.
            config: The stage's Config; see `settings_of`.
            seed: The experiment's seed.
            inputs: Digest of each output that the stage reads, by that stage's name.
        """
        values: dict[str, Any] = {}
        for setting in settings_of(config, with_contents=True):
            if setting.is_model and setting.value and setting.changes_output:
                values[f"{setting.key} (sha256)"] = model_digest(str(setting.value))
            elif setting.changes_output:
                values[setting.key] = setting.value
        # By way of JSON, so that an identity equals the one that is read from a file.
        return cls(stage, revision, seed, json.loads(json.dumps(values)), dict(sorted(inputs.items())))

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
        nested: dict[str, Any] = {"settings": {}, "inputs": {}}
        for key, value in content.items():
            if key.startswith(_CONFIG):
                nested["settings"][key.removeprefix(_CONFIG)] = value
            elif key.startswith(_INPUT):
                nested["inputs"][key.removeprefix(_INPUT)] = value
            else:
                nested[key] = value
        return from_fields(cls, nested)


@dataclass(frozen=True)
class Setting:
    """One value of a configuration.

    Attributes:
        key: Dotted, e.g. "mel.sample_rate" or "noise[0].root".
        value: Plain; tuples have become lists.
        changes_output: Whether the output depends on it.
        is_model: Whether it names a model by embedded name, file or folder.
    """

    key: str
    value: Any
    changes_output: bool = True
    is_model: bool = False


def settings_of(config: Any, prefix: str = "", *, with_contents: bool = False) -> Iterator[Setting]:
    """Yield every value of a configuration.

    Dataclasses, lists of dataclasses and mappings are followed down to their values. A field's metadata says more:
    `fingerprint=False`: nothing below it changes the output; `fingerprint="unless default"`: neither does its default,
    because the field was added later and its default means what was done before; `model=True`: it names a model.

    Args:
        config: A dataclass.
        prefix: Begins every key.
        with_contents: Also yield what the folders hold that a config points at: `content_digests()` of each dataclass
            that has such a method, under keys "content of <name>". That lists the folders, which can take seconds.
    """
    yield from _in_dataclass(prefix, config, True, with_contents)


def _in_dataclass(prefix: str, config: Any, changes_output: bool, with_contents: bool) -> Iterator[Setting]:
    for field in dataclasses.fields(config):
        value, enters = getattr(config, field.name), field.metadata.get("fingerprint", True)
        counts = bool(enters) and not (enters == "unless default" and value == field.default)
        is_model = field.metadata.get("model", False)
        yield from _in_value(prefix + field.name, value, changes_output and counts, is_model, with_contents)
    if with_contents and changes_output and hasattr(config, "content_digests"):
        for name, digest in config.content_digests().items():
            yield Setting(f"{prefix}content of {name}", digest)


def _in_value(key: str, value: Any, changes_output: bool, is_model: bool, with_contents: bool) -> Iterator[Setting]:
    if dataclasses.is_dataclass(value):
        yield from _in_dataclass(f"{key}.", value, changes_output, with_contents)
    elif isinstance(value, list | tuple) and any(dataclasses.is_dataclass(item) for item in value):
        for index, item in enumerate(value):
            yield from _in_dataclass(f"{key}[{index}].", item, changes_output, with_contents)
    elif isinstance(value, Mapping):
        for name, item in sorted(value.items()):
            yield from _in_value(f"{key}.{name}", item, changes_output, is_model, with_contents)
    else:
        yield Setting(key, list(value) if isinstance(value, tuple) else value, changes_output, is_model)


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
