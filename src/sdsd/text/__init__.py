"""Pure functions on text: normal form, words, parsing, prompt files, chat formats."""
