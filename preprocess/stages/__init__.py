"""The work on one study: load it, pair images with contours, render images and masks."""
