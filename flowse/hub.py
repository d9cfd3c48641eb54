"""Models by address: a folder, an embedded name, `hf:owner/name` on the Hugging Face Hub, or what a package fetches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from flowse.errors import UserError
from flowse.export import CARD, CONFIG, VOCODER, WEIGHTS, read_config
from flowse.pretrained import resolve

HUGGING_FACE = "hf"
_FILES = [CONFIG, WEIGHTS, CARD, VOCODER, f"{VOCODER}/*"]


def find_model(address: str) -> Path:
    """Return the folder of a model, which is fetched if it lies elsewhere.

    Args:
        address: A folder, the name of an embedded model, `hf:owner/name` (`hf:owner/name@revision`) on the Hugging
            Face Hub, or an address that an installed package fetches: such a package registers a function from
            address to folder under the entry points "flowse.models". `flowse-pipeline[pipeline]` does so for MLflow's
            `runs:/…` and `models:/…`.

    Raises:
        FileNotFoundError: There is no such model.
        UserError: No package here fetches such addresses, or the Hub does not give the model.
        ImportError: huggingface_hub is not installed.
    """
    scheme, colon, rest = address.partition(":")
    if not colon or Path(address).expanduser().exists():
        return resolve(address)
    if scheme == HUGGING_FACE:
        return _from_hub(address, rest)
    if not rest.startswith("/") or not scheme.isalnum():
        return resolve(address)
    found = {point.name: point for point in metadata.entry_points(group="flowse.models")}
    if scheme not in found:
        known = ", ".join(["hf:owner/name", *(f"{name}:/…" for name in sorted(found))])
        raise UserError(
            f"{address}: no package here fetches {scheme}:/ addresses; known: {known}; MLflow's come with pip install "
            "'flowse-pipeline[pipeline]'"
        )
    return Path(found[scheme].load()(address))


def push_to_hub(folder: Path, repository: str, *, private: bool = True, message: str = "Upload a FlowSE model") -> str:
    """Upload an exported model, with its card, to the Hugging Face Hub; `hf auth login` says who you are.

    Args:
        folder: What `flowse.export.save` wrote.
        repository: `owner/name`; it is made if it is absent.
        private: Whether a repository that is made can be seen by its owner alone.
        message: Of the commit.

    Returns:
        Address that `find_model` takes: `hf:owner/name`.

    Raises:
        ExportError: The folder is no model.
        UserError: The Hub does not take it.
        ImportError: huggingface_hub is not installed.
    """
    repository = repository.removeprefix(f"{HUGGING_FACE}:")
    read_config(folder)
    with _hub(f"{HUGGING_FACE}:{repository}") as hub:
        interface = hub.HfApi()
        interface.create_repo(repository, private=private, exist_ok=True)
        interface.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=_FILES, commit_message=message)
    return f"{HUGGING_FACE}:{repository}"


def _from_hub(address: str, rest: str) -> Path:
    """Fetch a model from the Hub, or take it from the Hub's cache on this machine."""
    repository, _, revision = rest.removeprefix("//").partition("@")
    with _hub(address) as hub:
        folder = Path(hub.snapshot_download(repository, revision=revision or None, allow_patterns=_FILES))
    if not (folder / CONFIG).is_file():
        raise UserError(f"{address} is no model of this project: there is no {CONFIG} in it")
    return folder


@contextmanager
def _hub(address: str) -> Iterator[Any]:
    """Give the package huggingface_hub; what it refuses becomes one line."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise ImportError(f"{address}: this needs pip install 'flowse-pipeline[hub]'") from error
    try:
        yield huggingface_hub
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"{address}: the Hugging Face Hub says: {why}; check the name, the network, and for a private model "
            "`hf auth login`"
        ) from error
