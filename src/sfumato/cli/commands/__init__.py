"""The commands, one a file. What takes seconds to import is imported when a command runs."""
