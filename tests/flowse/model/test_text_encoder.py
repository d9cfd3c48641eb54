"""Laws of the text encoder: padding and other utterances change nothing, and dropped text acts like no text."""

import torch

from flowse.model.text_encoder import GlobalResponseNorm, TextEncoder


def _encoder() -> TextEncoder:
    torch.manual_seed(0)
    encoder = TextEncoder(20, 16, 2).eval()
    for block in encoder.blocks:
        torch.nn.init.normal_(block.grn.gamma)
        torch.nn.init.normal_(block.grn.beta)
    return encoder


def test_an_utterance_is_encoded_the_same_alone_and_padded() -> None:
    encoder = _encoder()
    ids = torch.randint(1, 21, (1, 30))
    alone = encoder(ids, None, (1, 12))
    batch = torch.cat((torch.nn.functional.pad(ids, (0, 5)), torch.randint(1, 21, (1, 35))))
    mask = torch.arange(40)[None] < torch.tensor([[12], [40]])
    padded = encoder(batch, mask, (2, 40))
    assert torch.allclose(padded[:1, :12], alone, atol=1e-5)
    assert padded[0, 12:].abs().max() == 0


def test_dropped_text_is_encoded_like_no_text() -> None:
    encoder = _encoder()
    ids = torch.randint(1, 21, (2, 9))
    dropped = encoder(ids, None, (2, 12), torch.tensor([True, False]))
    assert torch.equal(dropped[0], encoder(None, None, (2, 12))[0])
    assert torch.equal(dropped[1], encoder(ids, None, (2, 12))[1])


def test_grn_is_the_identity_before_training_and_has_its_closed_form() -> None:
    norm = GlobalResponseNorm(4)
    x = torch.randn(2, 6, 4)
    assert torch.equal(norm(x, None), x)
    torch.nn.init.ones_(norm.gamma)
    energy = x.square().sum(1, keepdim=True).sqrt()
    assert torch.allclose(norm(x, None), x * energy / energy.mean(-1, keepdim=True) + x, atol=1e-4)
