"""Counter-based random numbers: a pure function of a key and of the position in a tensor."""

from __future__ import annotations

from graftwork.kernels.arrays import Array, check_output
from graftwork.kernels.dispatch import kernel
from graftwork.kernels.dtypes import safetensors_name


@kernel
def philox(out: Array, key: int, offset: int) -> None:
    """Write the random 32-bit words of the elements `offset`, `offset + 1`, ... of a stream.

    out:    I32, any shape, taken as flat; holds the words' bit patterns
    key:    0..2**64-1, names the stream; its low half is the first of Philox's two key words
    offset: flat position of the first element, 0 or more

    The word of element i is word `i % 4` of the Philox4x32-10 block with the 128-bit counter `i // 4`. Whoever needs a
    number in [0, 1) takes the high 24 bits, times 2**-24. All twins give the same bits.

    Raises ValueError for another dtype and for a key or an offset outside its bounds.
    Source: Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3, doi:10.1145/2063384.2063405.
    """
    check_output(out)
    if safetensors_name(out.dtype) != "I32":
        raise ValueError(f"out is {safetensors_name(out.dtype)}; the words are I32")
    check_stream(key, offset)
    philox.run(out, key, offset)


def check_stream(key: int, offset: int) -> None:
    """Raises ValueError for a key outside 0..2**64-1 and for a negative offset."""
    if not 0 <= key < 1 << 64:
        raise ValueError(f"key is {key}; expected 0..2**64-1")
    if offset < 0:
        raise ValueError(f"offset is {offset}; expected 0 or more")
