"""MuJoCo Playground's environments: found by name, stepped by MJX or C MuJoCo, trained on as a task."""
