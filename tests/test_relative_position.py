import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.models.relative_position import RelativePositionBias, bucket_table

OFFSETS = np.arange(-300, 301)  # key minus query
SIZES = [(32, 128), (6, 7), (8, 20), (4, 6), (16, 64), (64, 256)]


def buckets(num_buckets, max_distance, bidirectional, queries=(0,), keys=OFFSETS):
    """What the module looks up, read off a table that holds its own row numbers: [Q, K]."""
    module = RelativePositionBias(1, num_buckets, max_distance, bidirectional, stddev=1.0, dtype=jnp.float32)
    params = {"embedding": jnp.arange(num_buckets, dtype=jnp.float32)[:, None]}
    bias = module.apply({"params": params}, jnp.asarray(queries), jnp.asarray(keys))
    assert bias.shape == (1, 1, len(queries), len(keys))
    return np.asarray(bias[0, 0]).astype(int)


# From transformers 5.23: the distance at which each bucket of one direction begins. They hold without torch.
GOLDEN = {
    (16, 128): [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91],
    (32, 128): [*range(16), 16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113],
    (3, 7): [0, 1, 3],
    (6, 7): [0, 1, 2, 3, 4, 6],
}


@pytest.mark.parametrize("size", GOLDEN, ids=str)
def test_ranges_of_distances(size):
    table = bucket_table(*size)
    begins = np.flatnonzero(np.diff(table, prepend=-1))
    assert begins.tolist() == GOLDEN[size]
    assert table[begins].tolist() == list(range(size[0]))


@pytest.mark.parametrize("bidirectional", [True, False], ids=["encoder", "decoder"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_buckets_are_those_of_transformers(size, bidirectional):
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5")
    expected = modeling.T5Attention._relative_position_bucket(
        torch.tensor(OFFSETS), bidirectional=bidirectional, num_buckets=size[0], max_distance=size[1]
    )
    np.testing.assert_array_equal(buckets(*size, bidirectional)[0], expected.numpy())


def test_only_distance_counts_and_positions_before_zero_are_earlier_ones():
    encoder = buckets(32, 128, True, queries=range(5), keys=range(-3, 5))
    for query in range(5):
        offsets = np.arange(-3, 5) - query
        np.testing.assert_array_equal(encoder[query], buckets(32, 128, True, keys=offsets)[0])
    # Later keys have buckets of their own in the encoder, and share the one of distance 0 in the decoder, unseen.
    assert buckets(32, 128, True, keys=[-1, 0, 1])[0].tolist() == [1, 0, 17]
    assert buckets(32, 128, False, keys=[-1, 0, 1])[0].tolist() == [1, 0, 0]
