"""What tests share and pytest does not give: plain C MuJoCo to compare with, child processes, cheap compilation."""
