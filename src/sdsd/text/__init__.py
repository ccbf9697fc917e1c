"""Pure functions on text: normal forms, words, parsing, prompt files, chat formats."""
