"""What the MLP of a transformer block (width → 4·width → width) sends in one step, by kind of parallelism.

Tensor parallelism sends activations: they grow with samples · tokens · width, and not with the weights. Data
parallelism sends the gradients of all weights: they grow with width², and not with the batch.
"""

from torchcourse.lessons.data_parallelism.cost import ring_bytes

COLUMN_ROW, ROW_COLUMN = "column, then row", "row, then column"
ORDERS = [COLUMN_ROW, ROW_COLUMN]
"""The two ways to split a pair of layers."""


def block_bytes(tokens: int, width: int, ranks: int, number: int = 4) -> float:
    """Return the bytes that a rank sends for a whole block: two all-reduces forward, two backward.

    Args:
        tokens: in the whole batch, that is samples times tokens of each.
        width: of what travels between blocks.
        ranks: that share the block.
        number: bytes of one number.

    Source: Narayanan et al. 2021, section 3.2, https://arxiv.org/abs/2104.04473 (there 8bsh(t−1)/t numbers)
    """
    return 4 * ring_bytes(tokens * width * number, ranks)


def pair_bytes(order: str, tokens: int, width: int, ranks: int, number: int = 4) -> float:
    """Return the bytes that a rank sends for the MLP split in one of the `ORDERS`, forward and backward.

    Column, then row: an all-reduce each way, `width` wide. Row, then column: an all-reduce each way in the middle,
    4·`width` wide, and an all-gather each way at the ends, which sends half as much as an all-reduce.

    Raises:
        ValueError: for a different order.
    """
    narrow = ring_bytes(tokens * width * number, ranks)
    if order == COLUMN_ROW:
        return 2 * narrow
    if order == ROW_COLUMN:
        return 2 * (4 * narrow + narrow / 2)
    raise ValueError(f"There is no order {order!r}. Take one of: {'; '.join(ORDERS)}.")


def weight_bytes(width: int, number: int = 4) -> int:
    """Return the bytes of the MLP's weights and biases, without the norm."""
    return (8 * width**2 + 5 * width) * number
