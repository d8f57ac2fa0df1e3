"""What users would pick instead, side by side at equal wall-clock time."""
