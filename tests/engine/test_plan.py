import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tiny import batches_of, moving_picture

from cvvae_cli.engine.plan import pad_frames, plan_tiles, regroup
from cvvae_cli.types import LatentGeometry

GEOMETRY = LatentGeometry(32, 4, 8)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 20), st.integers(0, 8))
def test_cores_of_tiles_cover_every_position_once(height, width, tile, halo):
    covered = np.zeros((height, width), int)
    for part in plan_tiles(height, width, tile, halo):
        rows, columns = part.core
        covered[rows.start : rows.stop, columns.start : columns.stop] += 1
        for core, window, length in zip(part.core, part.window, (height, width), strict=True):
            assert 0 < len(core) <= tile
            assert window.start == max(0, core.start - halo)
            assert window.stop == min(length, core.stop + halo)
    assert (covered == 1).all()


@given(st.integers(1, 100), st.integers(1, 20), st.integers(1, 5), st.integers(0, 3))
def test_frames_are_cut_on_the_grid_and_none_is_lost(frames, batch, chunk, start):
    rgb = np.arange(frames, dtype=np.uint8)[:, None, None, None]
    groups = list(regroup(batches_of(rgb, batch), GEOMETRY, chunk, start * chunk))
    assert np.array_equal(np.concatenate([g.rgb for g in groups]), rgb)
    sizes = [
        len(GEOMETRY.frames_of(range((start + i) * chunk, (start + i + 1) * chunk)))
        for i in range(len(groups))
    ]
    assert [len(g) for g in groups[:-1]] == sizes[:-1]
    assert len(groups[-1]) <= sizes[-1]


@given(st.integers(1, 500))
def test_latents_and_frames_agree(frames):
    latents = GEOMETRY.num_latents(frames)
    covered = GEOMETRY.frames_of(range(latents))
    assert covered.start == 0
    assert covered.stop - 3 <= frames <= covered.stop
    assert GEOMETRY.latent_of(frames - 1) == latents - 1


def test_padding_repeats_edges():
    rgb = moving_picture(5, 20, 17)
    padded = pad_frames(rgb, 3, 16, 8)
    assert padded.shape == (16, 24, 24, 3)
    assert np.array_equal(padded[3:8, :17, :20], rgb)
    assert np.array_equal(padded[0, :17, :20], rgb[0])
    assert np.array_equal(padded[15, 23, :20], rgb[4, 16])
    assert np.array_equal(padded[15, :17, 23], rgb[4, :, 19])
