"""The model of the caching allocator follows the rules of PyTorch's: pools, segments, splitting, merging, emptying."""

import pytest
import torch

from torchcourse.lessons.troubleshooting.allocator import CachingAllocator

MIB = 2**20


@pytest.mark.parametrize(
    ("size", "allocated", "reserved"),
    [
        (1, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (9 * MIB, 9 * MIB, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        (13 * MIB, 13 * MIB, 14 * MIB),
    ],
)
def test_sizes_of_blocks_and_segments(size, allocated, reserved):
    allocator = CachingAllocator()
    allocator.allocate(size)
    # A large block is split only if more than 1 MiB is left over: 13 MiB in a segment of 14 keeps all of it.
    assert allocator.allocated == (14 * MIB if size == 13 * MIB else allocated)
    assert allocator.reserved == reserved


def test_what_is_freed_stays_reserved_and_is_used_again():
    allocator = CachingAllocator()
    block = allocator.allocate(30 * MIB)
    allocator.free(block)
    assert (allocator.allocated, allocator.reserved) == (0, 30 * MIB)
    allocator.allocate(25 * MIB)
    assert (allocator.allocated, allocator.reserved) == (25 * MIB, 30 * MIB)


def test_empty_cache_gives_back_whole_free_segments_and_nothing_of_live_tensors():
    allocator = CachingAllocator()
    kept, freed = allocator.allocate(2 * MIB), allocator.allocate(8 * MIB)
    large = allocator.allocate(30 * MIB)
    allocator.free(freed)
    allocator.free(large)
    assert allocator.reserved == 50 * MIB
    assert allocator.empty_cache() == 30 * MIB
    assert (allocator.allocated, allocator.reserved) == (2 * MIB, 20 * MIB)  # 2 MiB hold a segment of 20
    assert allocator.empty_cache() == 0
    assert kept.used


def test_free_neighbors_become_one_block():
    allocator = CachingAllocator()
    blocks = [allocator.allocate(6 * MIB) for _ in range(3)]
    for block in blocks:
        allocator.free(block)
    assert [(block.size, block.used) for block in allocator.segments[0].blocks] == [(20 * MIB, False)]


def test_the_smallest_block_that_fits_is_taken():
    allocator = CachingAllocator()
    large, small = allocator.allocate(40 * MIB), allocator.allocate(12 * MIB)
    allocator.free(large)
    allocator.free(small)
    allocator.allocate(11 * MIB)
    assert [segment.blocks[0].used for segment in allocator.segments] == [False, True]


def test_a_gap_too_small_is_no_room_though_the_sum_is():
    allocator = CachingAllocator(capacity=40 * MIB)
    blocks = [allocator.allocate(5 * MIB) for _ in range(8)]
    for block in blocks[::2]:
        allocator.free(block)
    assert allocator.reserved - allocator.allocated == 20 * MIB
    with pytest.raises(torch.OutOfMemoryError, match=r"20\.0 MiB are reserved but unallocated"):
        allocator.allocate(9 * MIB)
    allocator.allocate(5 * MIB)


def test_the_cache_is_emptied_before_giving_up():
    allocator = CachingAllocator(capacity=40 * MIB)
    allocator.free(allocator.allocate(30 * MIB))
    allocator.allocate(36 * MIB)
    assert allocator.reserved == 36 * MIB


def test_a_name_and_a_double_free():
    allocator = CachingAllocator()
    block = allocator.allocate(100, "weights")
    assert block.name == "weights"
    allocator.free(block)
    assert allocator.allocated == 0
