"""A DICOM file → an image and the few header elements that are taken."""
