"""Recipe of the embedded vocoder: a small Vocos, trained on a few hours of recordings with two CPU cores.

On a shared machine, set ``OMP_WAIT_POLICY=passive``: otherwise threads spin while they wait for a preempted thread,
which made the training eight times slower.
"""
