"""The terms that tasks are made of: small functions, a file for each kind. No term knows a robot."""
