"""What a reader sees: figures, tables and the explorer."""
