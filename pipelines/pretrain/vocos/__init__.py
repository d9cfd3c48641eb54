"""Recipe: train the embedded Vocos vocoder, a small one, on a few hours of recordings and two CPU cores.

On a machine that others use too, start it with ``OMP_WAIT_POLICY=passive``: threads that spin while they wait for one
that was pushed aside made it eight times slower.
"""
