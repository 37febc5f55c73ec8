"""The picture of the allocator's segments says what is used and what is kept."""

from torchcourse.lessons.troubleshooting.allocator import MIB, CachingAllocator
from torchcourse.lessons.troubleshooting.allocator_picture import describe_segments, draw_segments


def test_segments_show_what_is_used_and_what_is_kept():
    allocator = CachingAllocator()
    first, _second = allocator.allocate(5 * MIB, "first"), allocator.allocate(5 * MIB, "second")
    allocator.free(first)
    figure = draw_segments(allocator)
    assert figure.axes[0].get_title() == "5.0 MiB allocated, 20.0 MiB reserved"
    assert [text.get_text() for text in figure.axes[0].texts] == ["free", "second", "free"]
    assert "segment 1: free 5.0 MiB, second 5.0 MiB, free 10.0 MiB" in describe_segments(allocator)
    assert describe_segments(CachingAllocator()) == "0 bytes allocated, 0 bytes reserved: no segment."
    draw_segments(CachingAllocator())
