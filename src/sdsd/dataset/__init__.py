"""Finished dialogues as a data set: Parquet files by view, written again at any time.

`selection` decides what of a record is kept, `views` make rows of it, `export` writes and reads the
files, `trainer_formats` turns them into what other trainers read. All of it is a pure function of
records, manifest and configuration; no model is called.
"""
