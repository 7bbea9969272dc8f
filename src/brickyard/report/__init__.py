"""Reports of an evaluation: metrics of single classes, confusion matrices, curves and the worst images."""
