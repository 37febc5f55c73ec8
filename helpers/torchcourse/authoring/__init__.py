"""For those who write lessons: turn sources and question banks into notebooks, and data packages into small files."""
