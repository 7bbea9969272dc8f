"""Models on disk and on the Hub, one brick at a time."""
