"""What a user writes, checked and frozen: tasks, steps, workflows, flows. Pure."""
