"""Turns MRI studies (DICOM) and left-ventricle contours (text) into TFRecords: ``python -m preprocess --help``."""
