"""What every part of the package may use: threads and locks, logging, hints for a caller's mistake."""
