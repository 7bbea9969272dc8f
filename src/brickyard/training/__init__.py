"""Models that learn, on Lightning, and how good they are."""
