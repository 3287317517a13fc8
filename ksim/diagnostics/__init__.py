"""What went wrong, and where time goes: diverged envs, the managers' shares."""
