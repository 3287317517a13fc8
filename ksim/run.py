"""Train a policy: ``python -m ksim.run task=kbot_standing algo.num_envs=512``; ``-m`` for a sweep."""

from ksim.sweep.preflight import main

if __name__ == "__main__":
    main()
