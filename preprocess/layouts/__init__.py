"""Layouts of data sets: which files make up a study, and which contour belongs to which image."""
