"""One dialogue, from its scenario to its record; `record` is the file to read first.

Stages reach models only by `ask`. They know neither the journal nor servers, and not each other.
"""
