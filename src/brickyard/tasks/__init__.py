"""Tasks, one per file: each builds the bricks of a head from the features of a backbone and the labels of a data set.

`brickyard.tasks.wiring` has a table of luxonis-train's terms and their equivalents in this package.
"""
