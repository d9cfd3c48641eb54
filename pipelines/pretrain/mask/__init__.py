"""Recipe: train the dual-path mask embedded as ``flowse-small``, on mixtures made while it trains.

Three steps, each a command of `python -m pipelines.pretrain.mask`: ``pack`` chooses recordings and codes them small
enough to be sent to another machine, with simulated and measured rooms; ``train`` decodes the pack into the device's
memory, draws every mixture there and learns from it; ``export`` writes the model folder. All randomness follows from
one seed.
"""
