"""Data sets: one reader per source, decoding, duplicates, splits."""
