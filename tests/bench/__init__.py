"""The figures of `make bench`: measured, printed as a table, written to build/bench.json. Never a timed test."""
