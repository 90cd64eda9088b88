"""The command line: ``main`` and one small module per command."""
