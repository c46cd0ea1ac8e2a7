"""One run of one preset: its stages on disk, its predictions and its tables."""
