"""A shoebox room with known dimensions and decay, for tests of impulse responses."""

from __future__ import annotations

import math

from flowse.simulation.rooms import SPEED_OF_SOUND, Room


def box(distance_m: float, shape: str = "shoebox") -> Room:
    """A room of 5 × 4 × 3 m with a decay of 0.3 s."""
    corners = ((0.0, 0.0), (5.0, 0.0), (5.0, 4.0), (0.0, 4.0))
    mean = 24 * math.log(10) * 60 / (SPEED_OF_SOUND * 94 * 0.3)
    return Room(
        shape="shoebox" if shape == "shoebox" else "polygon",
        corners_m=corners,
        height_m=3.0,
        rt60_s=0.3,
        absorption=(mean,) * 7,
        scattering=0.2,
        microphone_m=(1.2, 1.4, 1.3),
        sources_m=((1.2 + distance_m * 0.8, 1.4 + distance_m * 0.6, 1.3),),
    )
