"""Command-line programs: parse flags, call the package, write files."""
