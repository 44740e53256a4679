"""Turns MRI studies (DICOM) and left-ventricle contours (text) into sharded TFRecords: ``python -m preprocess --help``."""
