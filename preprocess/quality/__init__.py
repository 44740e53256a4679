"""What is measured, and what looks wrong only across files."""
