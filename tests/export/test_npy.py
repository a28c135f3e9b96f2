import numpy as np


def test_numpy_reads_the_same_pixels_without_pickle(masks, same):
    out = masks.export("npy")
    got = {
        path.relative_to(out).as_posix().removesuffix(".npy"): np.load(path, allow_pickle=False)
        for path in out.rglob("*.npy")
    }
    same(got, masks.by_name)
    assert {array.dtype for array in got.values()} == {np.dtype(np.uint8)}
