"""Laws of the model folder: it loads to the same model, and a damaged folder is refused with the fault named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flowse.enhancer import Enhancer
from flowse.export import CONFIG, WEIGHTS, ExportError, ModelConfig, load, save, vocoder_of
from flowse.flow.config import FlowConfig
from flowse.flow.sampling import Sampling
from flowse.model.spec import DiTConfig, ModelSpec
from flowse.model.system import System, build
from flowse.pretrained import resolve
from flowse.seeding import generator
from tests.tiny import write_vocoder


@pytest.fixture(scope="module")
def vocoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Vocos folder with random weights."""
    return write_vocoder(tmp_path_factory.mktemp("vocos"), seed=1)


def config(**changes: Any) -> ModelConfig:
    small = DiTConfig(dim=32, depth=1, heads=2, conv_groups=4, text_dim=16, text_blocks=1)
    spec = ModelSpec(model=small, vocabulary=tuple(" ab"), mel_mean=-6.0, mel_std=3.0, **changes)
    return ModelConfig(spec=spec, sampling=Sampling(steps=3, guidance=0.5, method="midpoint", grid="sway"))


@pytest.fixture(scope="module")
def system() -> System:
    torch.manual_seed(0)
    built = build(config(flow=FlowConfig(source="predicted")).spec)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return built.eval()


@pytest.fixture
def folder(tmp_path: Path, system: System, vocoder: Path) -> Path:
    save(
        tmp_path / "model",
        config(flow=FlowConfig(source="predicted")),
        system.state_dict(),
        vocoder,
        "# Card\n",
    )
    return tmp_path / "model"


def test_the_config_comes_back_as_it_was() -> None:
    written = config(flow=FlowConfig(source="noisy", sigma=0.25))
    assert ModelConfig.from_json(written.to_json()) == written


def test_a_reloaded_model_enhances_to_the_same_samples(folder: Path, system: System, vocoder: Path) -> None:
    x = 0.1 * generator(0).standard_normal(30_000).astype(np.float32)
    before = Enhancer.from_parts(system, config(flow=FlowConfig(source="predicted")), vocoder)
    after = Enhancer.from_pretrained(folder)
    assert np.abs(before.enhance(x, 24000) - after.enhance(x, 24000)).max() <= 1e-5
    assert after.sampling == Sampling(steps=3, guidance=0.5, method="midpoint", grid="sway")


def test_the_folder_is_self_contained_and_nothing_is_left_beside_it(folder: Path) -> None:
    inside = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert inside == [
        "README.md",
        "config.json",
        "model.safetensors",
        "vocoder/config.yaml",
        "vocoder/pytorch_model.bin",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o644}


def test_the_same_weights_give_the_same_bytes(folder: Path, tmp_path: Path, system: System, vocoder: Path) -> None:
    again = tmp_path / "again"
    save(again, config(flow=FlowConfig(source="predicted")), system.state_dict(), vocoder, "# Card\n")
    assert (again / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_an_existing_folder_is_replaced_only_on_request(folder: Path, system: System, vocoder: Path) -> None:
    described = config(flow=FlowConfig(source="predicted"))
    with pytest.raises(FileExistsError, match="exists"):
        save(folder, described, system.state_dict(), vocoder, "new")
    assert (folder / "README.md").read_text() == "# Card\n"
    save(folder, described, system.state_dict(), vocoder, "new", overwrite=True)
    assert (folder / "README.md").read_text() == "new"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_failed_save_leaves_nothing(tmp_path: Path, system: System) -> None:
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "model", config(), system.state_dict(), tmp_path / "no-vocoder", "card")
    assert list(tmp_path.iterdir()) == []


def _damage(folder: Path, what: str) -> None:
    weights = load_file(folder / WEIGHTS)
    name = next(iter(weights))
    if what == "missing":
        del weights[name]
    elif what == "extra":
        weights["stranger"] = torch.zeros(1)
    elif what == "shape":
        weights[name] = torch.zeros(3, 3, 3)
    elif what == "nan":
        weights[name] = torch.full_like(weights[name], torch.nan)
    save_file(weights, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "is missing"),
        ("extra", "stranger is not known"),
        ("shape", "has shape"),
        ("nan", "not finite"),
    ],
)
def test_damaged_weights_are_refused(folder: Path, what: str, message: str) -> None:
    _damage(folder, what)
    with pytest.raises(ExportError, match=message):
        load(folder)


def test_damaged_files_are_refused(folder: Path, tmp_path: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ExportError, match="copy it again"):
        load(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ExportError, match="incomplete"):
        load(folder)
    values = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**values, "format": 99}))
    with pytest.raises(ExportError, match="format is 99"):
        load(folder)
    (folder / CONFIG).write_text("not json")
    with pytest.raises(ExportError, match=r"config\.json"):
        load(folder)
    with pytest.raises(ExportError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ExportError, match=r"it has no config\.json"):
        load(tmp_path)


def test_an_embedded_vocoder_is_named_not_copied(tmp_path: Path) -> None:
    (tmp_path / "vocoder").write_text("vocos-mel-24khz-small\n")
    assert vocoder_of(tmp_path) == resolve("vocos-mel-24khz-small")
    (tmp_path / "vocoder").write_text("nobody")
    with pytest.raises(FileNotFoundError, match="embedded"):
        vocoder_of(tmp_path)
    assert vocoder_of(tmp_path / "whole") == tmp_path / "whole" / "vocoder"


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:20],
        lambda whole: whole[:8] + b"\xff" + whole[9:],
        lambda whole: b"",
        lambda whole: b"\xff" * 8 + whole[8:],
        lambda whole: whole.replace(b"F32", b"I32", 1),
    ],
)
def test_damaged_weights_are_one_line_that_names_the_file(folder: Path, damage: Any) -> None:
    path = folder / WEIGHTS
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ExportError, match=WEIGHTS) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_config_that_asks_for_a_huge_model_takes_no_memory(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config["spec"]["model"].update(dim=65_536, heads=4096, depth=200)
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ExportError, match="does not fit its config"):
        load(folder)


@pytest.mark.parametrize(
    "sampling", [None, [], {"steps": "x"}, {"steps": 10**9}, {"guidance": float("nan")}, {"method": None}]
)
def test_impossible_sampling_is_refused_by_name(folder: Path, sampling: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config["sampling"] = sampling
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ExportError, match=CONFIG):
        load(folder)
