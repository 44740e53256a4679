"""Pairs → a records directory: dtypes, splits, shards, and publication in one step."""
