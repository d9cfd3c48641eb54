"""Laws of the discriminators: each gives scores and features, independent of the batch."""

from __future__ import annotations

import torch

from pipelines.pretrain.vocos.discriminators import Discriminators, PeriodDiscriminator, SpectrumDiscriminator


def test_every_discriminator_gives_scores_and_every_layer_features() -> None:
    scores, features = Discriminators(n_ffts=(256,), periods=(2, 5), channels=2)(torch.randn(3, 4096))
    assert len(scores) == 3
    assert len(features) == 4 + 5 + 5
    assert all(len(score) == 3 and score.dtype == torch.float32 for score in scores)


def test_scores_of_a_waveform_do_not_depend_on_the_batch() -> None:
    waveforms = 0.1 * torch.randn(2, 4096, generator=torch.Generator().manual_seed(0))
    for member in (SpectrumDiscriminator(256, 2), PeriodDiscriminator(5, 2)):
        together, _ = member(waveforms)
        alone, _ = member(waveforms[1:])
        torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-4)


def test_a_length_that_is_no_multiple_of_the_period_is_padded() -> None:
    score, _ = PeriodDiscriminator(7, 2)(torch.randn(1, 1001))
    assert score.shape[-1] == 7
