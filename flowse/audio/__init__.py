"""Waveforms, log-mel spectrograms and the vocoders between them."""
