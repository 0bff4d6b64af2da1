"""What the encoder makes of knowing the latent frames to come, before it chooses symbols.

Where content rests, the coder repeats a symbol for next to nothing: so a bit spent on it serves all frames
that show it, and it had better stand for their mean than for one noisy frame. What is about to change serves
one frame. Nothing of this is in a file: any choice of symbols decodes.
"""

from __future__ import annotations

import numpy as np

AHEAD = 3  # latent frames that are looked at beyond each, at most: to the end of a chunk
RESTING, PASSING = 0.5, 1.25  # shares of the price of a bit, where nothing changes and where all does
CHANGE = 0.1  # mean squared cells: a change of this much brings the price most of the way to the upper one
NOISE = 0.02  # mean squared cells: a change of this much is mostly meant, and less is mostly noise


def look_ahead(scaled: np.ndarray, price: float) -> tuple[np.ndarray, np.ndarray]:
    """Of latents in cells, float32 (t, C, h, w): what symbols are to stand for, and what a bit may cost.

    Both are of their shape; prices are in squared cells, around `price`. Of what comes after the last latent
    frame nothing is known. At a price of nothing only the error counts: then symbols stand for the latents
    as they are.
    """
    if not price:
        return scaled, np.zeros_like(scaled)
    aims, shares = scaled.copy(), np.full_like(scaled[:, :1], PASSING)
    for number in range(len(scaled) - 1):
        now, following = scaled[number], scaled[number + 1 : number + 1 + AHEAD]
        change = ((following - now) ** 2).mean((0, 1))
        shares[number] += (RESTING - PASSING) * np.exp(-change / CHANGE)
        mean = (now + following.sum(0)) / (1 + len(following))
        aims[number] += np.exp(-change / NOISE) * (mean - now)
    return aims, np.broadcast_to(price * shares, scaled.shape)
