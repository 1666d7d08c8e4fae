"""What developers and the build run."""
