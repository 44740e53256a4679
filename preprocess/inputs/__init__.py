"""A data directory → studies: the files of a folder or archive, which of them belong together, and the contours."""
