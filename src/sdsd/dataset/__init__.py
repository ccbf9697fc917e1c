"""Finished dialogues as a data set: Parquet files by view, and the card that explains them.

`views` makes rows of a record, `schema` says what their columns mean, `export` writes and reads
the files, `card` writes the `README.md`. All of it is a pure function of records, manifest and
configuration: no model is asked, and an export can be repeated at any time.
"""
