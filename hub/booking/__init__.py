"""Beside the line: who has which kit when: time zones, rules, free slots, series and calendar files."""
