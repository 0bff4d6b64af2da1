"""`flow-1`: fields to bytes and back."""

import numpy as np
import pytest

from cvvae_cli.bitstream.flow import FLOW_TABLES, FREQUENCIES, FlowCoder
from cvvae_cli.bitstream.residuals import ALPHABET
from cvvae_cli.errors import CorruptFileError, WeightsError
from cvvae_cli.flow.field import LARGEST
from cvvae_cli.train.flow import flow_frequencies


def smooth_fields(count, rows, columns, seed=0):
    """int16 (t, 3, 2, rows, columns): slow slopes, some of them none."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    slopes = rng.normal(0, 1, (count, 3, 2, 3, 1, 1))
    fields = np.rint(slopes[:, :, :, 0] * y + slopes[:, :, :, 1] * x + 5 * slopes[:, :, :, 2])
    fields[::3] = 0
    return fields.astype(np.int16)


def coder():
    return FlowCoder(flow_frequencies([smooth_fields(4, 30, 53, seed) for seed in range(9)]))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (2, 3), (30, 53), (17, 16)])
def test_fields_come_back(size):
    flow, fields = coder(), smooth_fields(4, *size, seed=77)
    data = flow.encode_fields(fields)
    assert np.array_equal(flow.decode_fields(data, (4, *size)), fields)
    assert np.array_equal(flow.decode_fields(data, (2, *size)), fields[:2])  # the first are there alone


def test_the_wildest_fields_come_back():
    fields = np.random.default_rng(1).integers(-LARGEST, LARGEST + 1, (3, 3, 2, 9, 11)).astype(np.int16)
    flow = coder()
    assert np.array_equal(flow.decode_fields(flow.encode_fields(fields), (3, 9, 11)), fields)


def test_what_rests_costs_nothing_and_what_is_smooth_little():
    flow = coder()
    assert len(flow.encode_fields(np.zeros((4, 3, 2, 30, 53), np.int16))) <= 8
    fields = smooth_fields(4, 30, 53, seed=77)
    assert 8 * len(flow.encode_fields(fields)) < fields.size  # a bit for a number that is rounded


def test_the_bytes_are_what_the_tables_say():
    flow, fields = coder(), smooth_fields(16, 30, 53, seed=5)
    plan = flow.exactly(flow.as_symbols(fields), ())
    bits = sum(flow.bits_of(guess, residuals).sum() for _, guess, residuals in plan.steps)
    assert bits < 8 * len(flow.encode_fields(fields)) < 1.01 * bits + 64


def test_vectors_beyond_what_a_file_may_hold_are_refused():
    flow = coder()
    fields = np.full((1, 3, 2, 2, 2), LARGEST + 1, np.int16)
    with pytest.raises(CorruptFileError, match="motion"):
        flow.decode_fields(flow.encode_fields(fields), (1, 2, 2))
    with pytest.raises(CorruptFileError):
        flow.decode_fields(b"", (1, 2, 2))


def test_tables_that_are_damaged_or_missing_are_refused():
    with pytest.raises(WeightsError, match=FREQUENCIES):
        FlowCoder.of_model({})
    with pytest.raises(WeightsError, match="damaged"):
        FlowCoder.of_model({FREQUENCIES: np.ones((FLOW_TABLES - 1, ALPHABET), np.int32)})
