"""Commands of `brickyard` that need more than a file has room for."""
