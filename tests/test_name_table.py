import numpy as np
import pytest

from jaxprompt.models.assemble import match
from jaxprompt.models.name_table import Layout, NameTable
from jaxprompt.models.weight_source import CheckpointError, TensorInfo

# What numpy makes of the whole tensor is the reference.


@pytest.mark.parametrize(
    ("pattern", "stored_shape", "whole"),
    [
        ("(H D) E -> E H D", (12, 5), lambda x: x.T.reshape(5, 3, 4)),
        ("E (H D) -> H D E", (5, 12), lambda x: x.T.reshape(3, 4, 5)),
        ("(H D) E -> H D E", (12, 5), lambda x: x.reshape(3, 4, 5)),
        ("H buckets -> buckets H", (3, 7), lambda x: x.T),
        ("E (1/3 H D) -> E H D", (5, 36), lambda x: x[:, 12:24].reshape(5, 3, 4)),
        ("(H 1/3 D) E -> E H D", (36, 5), lambda x: x.reshape(3, 3, 4, 5)[:, 1].transpose(2, 0, 1)),
    ],
)
def test_layout_reads_any_slice(pattern, stored_shape, whole):
    class Source:
        def read(self, name, index):
            self.asked = index
            return stored[index]

    stored = np.arange(np.prod(stored_shape)).reshape(stored_shape)
    expected = whole(stored)
    layout, source = Layout(pattern), Source()
    assert layout.stored_shape(expected.shape) == stored_shape
    np.testing.assert_array_equal(layout.view(stored, expected.shape), expected)
    rng = np.random.default_rng(0)
    for _ in range(30):
        bounds = [sorted(rng.choice(size + 1, 2, replace=False)) for size in expected.shape]
        index = tuple(slice(int(a), int(b)) for a, b in bounds)
        np.testing.assert_array_equal(layout.read(source, "x", expected.shape, index), expected[index])
    # A head's worth of a matrix is all that is read where only that head is wanted.
    if pattern == "(H D) E -> E H D":
        layout.read(source, "x", expected.shape, (slice(0, 5), slice(1, 2), slice(0, 4)))
        assert source.asked == (slice(4, 8), slice(0, 5))


def test_fused_tensors_match_by_their_whole_shape():
    class Source:
        location, problems = "memory", ()

        def __init__(self):
            self.tensors = {"c.weight": TensorInfo((5, 36), "float32"), "wte": TensorInfo((9, 5), "float16")}

    table = NameTable(
        rules=(("q", "c.weight", "E (0/3 H D) -> E H D"), ("v", "c.weight", "E (2/3 H D) -> E H D")),
        ignored=("wte",),
    )
    assert match({"q": (5, 3, 4), "v": (5, 3, 4)}, table, Source())["q"].name == "c.weight"
    with pytest.raises(CheckpointError, match=r"c\.weight is \[5, 36\], the model's is \[5, 48\]"):
        match({"q": (5, 4, 4), "v": (5, 4, 4)}, table, Source())
