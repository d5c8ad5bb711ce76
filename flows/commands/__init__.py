"""The verbs of the command line, a file per family. Heavy libraries are imported when a verb runs."""
