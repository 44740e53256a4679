"""A data directory → studies: the files of a folder or archive, which belong together, and the contours in them."""
