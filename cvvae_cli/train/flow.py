"""The tables of `flow-1`: how often fields of training clips do what."""

from __future__ import annotations

import numpy as np

from cvvae_cli.bitstream.flow import FLAG_TABLES, FLOW_TABLES, FlowCoder
from cvvae_cli.bitstream.residuals import ALPHABET, CENTER, ESCAPE, PROBABILITY_BITS, values_of
from cvvae_cli.train.tables import as_frequencies

SPREAD = 2.0  # in steps of a vector, of the pseudo-counts


def flow_frequencies(fields: list[np.ndarray]) -> np.ndarray:
    """Fields int16 (t, 3, 2, rows, columns) of clips → frequencies int32 (tables, 256)."""
    counts = np.zeros((FLOW_TABLES, ALPHABET))
    coder = FlowCoder(np.full((FLOW_TABLES, ALPHABET), 2**PROBABILITY_BITS // ALPHABET, np.int32))
    for clip in fields:
        for _, guess, residuals in coder.exactly(coder.as_symbols(clip), ()).steps:
            flat = guess.tables.ravel().astype(np.int64) * ALPHABET + values_of(guess, residuals).ravel()
            counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)
    expected = np.exp(-np.abs(np.arange(ALPHABET) - CENTER) / SPREAD)
    expected[ESCAPE] = 1e-3
    expected /= expected.sum()
    flag = np.full(ALPHABET, 1e-6)
    flag[[CENTER, CENTER + 1]] = 0.5
    rows = [as_frequencies(c + (flag if n < FLAG_TABLES else expected)) for n, c in enumerate(counts)]
    return np.array(rows, np.int32)
