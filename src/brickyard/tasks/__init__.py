"""Tasks: one file each, from the features of a backbone and the labels of a data set to bricks.

Coming from luxonis-train: `brickyard.tasks.wiring` has a table from its terms to ours.
"""
