"""Laws of the import: all 364 tensors are used, the network computes what the official one does, others are errors."""

import itertools
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from flowse.flow.sampling import Sampling
from flowse.model.official import OfficialError, import_official, read_official, translate
from flowse.model.spec import PAPER, ModelSpec
from flowse.model.system import build


def names_and_shapes(dim: int, depth: int, text: int, text_blocks: int, symbols: int) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the official checkpoint at any size, written down from its published names."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, into: int) -> None:
        shapes[f"transformer.{name}.weight"] = (out, into)
        shapes[f"transformer.{name}.bias"] = (out,)

    linear("time_embed.time_mlp.0", dim, 256)
    linear("time_embed.time_mlp.2", dim, dim)
    shapes["transformer.text_embed.text_embed.weight"] = (symbols + 1, text)
    for block in range(text_blocks):
        name = f"text_embed.text_blocks.{block}"
        shapes[f"transformer.{name}.dwconv.weight"] = (text, 1, 7)
        shapes[f"transformer.{name}.dwconv.bias"] = (text,)
        shapes |= {f"transformer.{name}.norm.{part}": (text,) for part in ("weight", "bias")}
        linear(f"{name}.pwconv1", 2 * text, text)
        shapes |= {f"transformer.{name}.grn.{part}": (1, 1, 2 * text) for part in ("gamma", "beta")}
        linear(f"{name}.pwconv2", text, 2 * text)
    linear("input_embed.proj", dim, 200 + text)
    for conv in (0, 2):
        shapes[f"transformer.input_embed.conv_pos_embed.conv1d.{conv}.weight"] = (dim, dim // 16, 31)
        shapes[f"transformer.input_embed.conv_pos_embed.conv1d.{conv}.bias"] = (dim,)
    shapes["transformer.rotary_embed.inv_freq"] = (32,)
    for block in range(depth):
        name = f"transformer_blocks.{block}"
        linear(f"{name}.attn_norm.linear", 6 * dim, dim)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            linear(f"{name}.attn.{part}", dim, dim)
        linear(f"{name}.ff.ff.0.0", 2 * dim, dim)
        linear(f"{name}.ff.ff.2", dim, 2 * dim)
    linear("norm_out.linear", 2 * dim, dim)
    linear("proj_out", 100, dim)
    return shapes


VOCABULARY = (" ", "a", "b", "ni3", "hao3")


def synthetic() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = names_and_shapes(128, 2, 32, 2, len(VOCABULARY))
    state = {name: 0.15 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    state["transformer.rotary_embed.inv_freq"] = 10_000.0 ** (-torch.arange(0, 64, 2) / 64)
    return state


def test_each_of_the_364_tensors_of_the_published_layout_is_used_or_implied() -> None:
    shapes = names_and_shapes(1024, 22, 512, 4, 2545)
    assert len(shapes) == 364
    vocabulary = tuple(map(str, range(2545)))
    official = translate({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, vocabulary)
    assert len(official.used) + len(official.implied) == 364
    assert official.implied == ("transformer.rotary_embed.inv_freq",)
    assert official.spec.model == PAPER.__class__(**{**vars(PAPER), "rotary": "first"})
    assert sum(tensor.numel() for tensor in official.state.values()) == pytest.approx(337.1e6, rel=2e-4)


def test_the_layout_has_the_names_of_the_published_list() -> None:
    path = Path(__file__).parents[4] / "shared" / "official_state_dict.csv"
    if not path.exists():
        pytest.skip(f"{path} is not here; the list is not part of the project")
    lines = [line.split(",") for line in path.read_text().splitlines()[1:]]
    published = {name: tuple(map(int, shape.split("x"))) for name, shape in lines}
    assert published == names_and_shapes(1024, 22, 512, 4, 2545)


def reference(w: dict[str, Tensor], x: Tensor, y: Tensor, ids: Tensor, t: float) -> Tensor:
    """Compute the official network's output for one utterance, tensor by tensor from its description."""

    def linear(name: str, value: Tensor) -> Tensor:
        return F.linear(value, w[f"transformer.{name}.weight"], w[f"transformer.{name}.bias"])

    frames, dim = x.shape[0], 128
    angle = 1000 * t * torch.exp(-torch.arange(128) * (torch.log(torch.tensor(10_000.0)) / 127))
    time = linear(
        "time_embed.time_mlp.2", F.silu(linear("time_embed.time_mlp.0", torch.cat((angle.sin(), angle.cos()))))
    )
    text = F.embedding(F.pad(ids, (0, frames - len(ids))), w["transformer.text_embed.text_embed.weight"])
    angles = torch.outer(torch.arange(frames), 10_000.0 ** (-torch.arange(0, 32, 2) / 32))
    text = text + torch.cat((angles.cos(), angles.sin()), dim=-1)
    for block in range(2):
        name = f"text_embed.text_blocks.{block}"
        p = f"transformer.{name}"
        h = F.conv1d(text.T[None], w[f"{p}.dwconv.weight"], w[f"{p}.dwconv.bias"], padding=3, groups=32)[0].T
        h = F.gelu(linear(f"{name}.pwconv1", F.layer_norm(h, (32,), w[f"{p}.norm.weight"], w[f"{p}.norm.bias"], 1e-6)))
        energy = h.norm(dim=0, keepdim=True)
        h = w[f"{p}.grn.gamma"][0] * (h * energy / (energy.mean(-1, keepdim=True) + 1e-6)) + w[f"{p}.grn.beta"][0] + h
        text = text + linear(f"{name}.pwconv2", h)
    h = linear("input_embed.proj", torch.cat((x, y, text), dim=-1))
    convolved = h.T[None]
    for conv in (0, 2):
        p = f"transformer.input_embed.conv_pos_embed.conv1d.{conv}"
        convolved = F.mish(F.conv1d(convolved, w[f"{p}.weight"], w[f"{p}.bias"], padding=15, groups=16))
    h = h + convolved[0].T
    turn = torch.polar(
        torch.ones(frames, 32), torch.outer(torch.arange(frames), w["transformer.rotary_embed.inv_freq"])
    )

    def rotate_first_64(value: Tensor) -> Tensor:
        first = torch.view_as_complex(value[:, :64].reshape(frames, 32, 2).contiguous())
        return torch.cat((torch.view_as_real(first * turn).flatten(1), value[:, 64:]), dim=-1)

    for block in range(2):
        name = f"transformer_blocks.{block}"
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = linear(f"{name}.attn_norm.linear", F.silu(time)).chunk(6)
        n = F.layer_norm(h, (dim,), eps=1e-6) * (1 + scale_a) + shift_a
        q, k = (rotate_first_64(linear(f"{name}.attn.to_{part}", n)) for part in "qk")
        v = linear(f"{name}.attn.to_v", n)
        heads = [torch.softmax(q[:, s] @ k[:, s].T / 8, dim=-1) @ v[:, s] for s in (slice(0, 64), slice(64, 128))]
        h = h + gate_a * linear(f"{name}.attn.to_out.0", torch.cat(heads, dim=-1))
        n = F.layer_norm(h, (dim,), eps=1e-6) * (1 + scale_f) + shift_f
        h = h + gate_f * linear(f"{name}.ff.ff.2", F.gelu(linear(f"{name}.ff.ff.0.0", n), approximate="tanh"))
    scale, shift = linear("norm_out.linear", F.silu(time)).chunk(2)
    return linear("proj_out", F.layer_norm(h, (dim,), eps=1e-6) * (1 + scale) + shift)


def test_the_imported_network_computes_what_the_official_layout_does() -> None:
    weights = synthetic()
    official = translate(weights, VOCABULARY)
    system = build(official.spec).eval()
    system.load_state_dict(official.state)
    x, y, ids = torch.randn(17, 100), torch.randn(17, 100), torch.tensor([1, 4, 5, 2])
    with torch.no_grad():
        ours = system.network(x[None], torch.tensor([0.3]), y[None], None, ids[None])[0]
    expected = reference(weights, x, y, ids, 0.3)
    assert torch.allclose(ours, expected, atol=1e-3 * float(expected.abs().max()))


def files(folder: Path, state: dict[str, Tensor]) -> tuple[Path, Path]:
    torch.save({"model_state_dict": state, "optimizer_state_dict": {}}, folder / "model.pt")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return folder / "model.pt", folder / "vocab.txt"


def test_an_import_writes_spec_and_weights(tmp_path: Path) -> None:
    import_official(*files(tmp_path, synthetic()), tmp_path / "out")
    spec = ModelSpec.from_dict(json.loads((tmp_path / "out" / "spec.json").read_text(encoding="utf-8")))
    assert spec.vocabulary == VOCABULARY
    system = build(spec)
    system.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    sampling = Sampling(steps=1, guidance=1.0)
    enhanced, _ = system.enhance(torch.zeros(1, 12, 100) - 6, None, torch.tensor([[1, 2]]), sampling)
    assert torch.isfinite(enhanced).all()


def test_an_unknown_tensor_is_an_error() -> None:
    with pytest.raises(OfficialError, match=r"transformer\.surprise"):
        translate({**synthetic(), "transformer.surprise": torch.zeros(1)}, VOCABULARY)


def test_every_missing_tensor_is_an_error() -> None:
    state = synthetic()
    for name in itertools.islice(state, 0, None, 5):
        if name.endswith("inv_freq"):
            continue
        with pytest.raises(OfficialError):
            translate({other: tensor for other, tensor in state.items() if other != name}, VOCABULARY)


def test_a_wrong_shape_a_wrong_vocabulary_and_other_positions_are_errors() -> None:
    state = synthetic()
    with pytest.raises(OfficialError, match=r"network\.final\.out\.bias has shape \(99,\)"):
        translate({**state, "transformer.proj_out.bias": torch.zeros(99)}, VOCABULARY)
    with pytest.raises(OfficialError, match="vocabulary has 4 symbols, the checkpoint 5"):
        translate(state, VOCABULARY[:-1])
    with pytest.raises(OfficialError, match="inv_freq"):
        translate({**state, "transformer.rotary_embed.inv_freq": torch.ones(32)}, VOCABULARY)


def test_other_files_are_refused(tmp_path: Path) -> None:
    checkpoint, vocabulary = files(tmp_path, synthetic())
    torch.save({"weights": {}}, tmp_path / "other.pt")
    with pytest.raises(OfficialError, match="model_state_dict"):
        read_official(tmp_path / "other.pt", vocabulary)
    (tmp_path / "page.pt").write_text("<html>not a checkpoint</html>")
    with pytest.raises(OfficialError, match=r"page\.pt cannot be read"):
        read_official(tmp_path / "page.pt", vocabulary)
    with pytest.raises(OfficialError, match=r"none\.txt"):
        read_official(checkpoint, tmp_path / "none.txt")
