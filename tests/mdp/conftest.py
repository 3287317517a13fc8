from support.scenes import cartpole, kbot, kbot_feet  # noqa: F401
