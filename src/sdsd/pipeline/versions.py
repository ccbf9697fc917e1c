"""Versions of what turns answers into records: a run's manifest says which ones made it.

Raise a number when the same recorded answers would give another record, or when a stage would ask
something else: a new prompt placeholder, another order of requests, a parser that reads a reply
differently. Leave it when only speed, names or messages change. Editing a packaged prompt needs no
new number: every run keeps its own copy of its prompts.
"""

VERSIONS = {
    "plan": 2,
    "dialogue": 7,
    "critique": 2,
    "revision": 1,
    "parsing": 2,
    "retry": 1,
}
