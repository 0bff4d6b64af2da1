"""The tables of `flow-1`: how often fields of training clips do what."""

from __future__ import annotations

import numpy as np

from cvvae_cli.bitstream.flow import FLAG_TABLES, FLOW_TABLES, FlowCoder
from cvvae_cli.bitstream.residuals import ALPHABET, CENTER, ESCAPE, PROBABILITY_BITS
from cvvae_cli.train.tables import as_frequencies, count_values

SPREAD = 2.0  # in steps of a vector, of the pseudo-counts


def flow_frequencies(fields: list[np.ndarray]) -> np.ndarray:
    """Fields int16 (t, 3, 2, rows, columns) of clips → frequencies int32 (tables, 256)."""
    coder = FlowCoder(np.full((FLOW_TABLES, ALPHABET), 2**PROBABILITY_BITS // ALPHABET, np.int32))
    plans = (coder.exactly(coder.as_symbols(clip), ()) for clip in fields)
    counts = count_values(plans, FLOW_TABLES)
    expected = np.exp(-np.abs(np.arange(ALPHABET) - CENTER) / SPREAD)
    expected[ESCAPE] = 1e-3
    expected /= expected.sum()
    flag = np.full(ALPHABET, 1e-6)
    flag[[CENTER, CENTER + 1]] = 0.5
    rows = [as_frequencies(c + (flag if n < FLAG_TABLES else expected)) for n, c in enumerate(counts)]
    return np.array(rows, np.int32)
