"""Models as files that run without us."""
