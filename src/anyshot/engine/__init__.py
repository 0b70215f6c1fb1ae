"""Training loop, schedules, checkpoints, artifact stores: what runs networks and keeps their results."""
