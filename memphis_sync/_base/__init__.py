"""What every part of the package may use: threads and locks, lines of the log, hints for a caller's mistake."""
