"""Pictures that are the same to the bit everywhere: whole numbers and a frozen generator only."""

import numpy as np


def made(side: int, seed: int = 0) -> np.ndarray:
    """(side, side, 3) uint8: cloudy noise of many sizes, the larger the stronger, as in
    photographs.
    """
    # its stream is frozen by NumPy's word, default_rng's is not
    random = np.random.RandomState(seed)
    total = np.zeros((side, side, 3), np.int64)
    for size in (64, 32, 16, 8, 4, 2, 1):
        x = random.randint(0, 256, (side // size + 2, side // size + 2, 3)).astype(np.int64)
        for axis in (0, 1):
            x = between(x, size, side, axis)
        total += size * x
    return ((total // 127 - 128) * 2 + 128).clip(0, 255).astype(np.uint8)


def between(x: np.ndarray, size: int, side: int, axis: int) -> np.ndarray:
    """`size` linear steps from each value to the next along an axis, the first `side` of them."""
    step = np.arange(side) % size
    step = step.reshape([-1 if a == axis else 1 for a in range(3)])
    low, high = (x.take(np.arange(side) // size + i, axis) for i in (0, 1))
    return (low * (size - step) + high * step) // size


def with_sky(picture: np.ndarray) -> np.ndarray:
    """The upper half in one color: places without any texture."""
    out = picture.copy()
    # a Y that BasicSR halves without rounding noise, which NIQE would see
    out[: len(out) // 2] = (150, 180, 230)
    return out


def blurred(picture: np.ndarray) -> np.ndarray:
    """Means of 3x3 pixels, the sides meeting each other."""
    total = sum(
        np.roll(picture.astype(np.int64), (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)
    )
    return (total // 9).astype(np.uint8)
