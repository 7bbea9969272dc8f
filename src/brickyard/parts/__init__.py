"""Plain modules and functions that bricks are made of; none of them knows what a brick is."""
