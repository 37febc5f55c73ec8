"""For those who write lessons: turn sources and question banks into notebooks."""
