"""What ``make campaign`` tries for long and the suite in short: faults, and anything at all."""
