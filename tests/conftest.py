from hypothesis import settings

# No deadline: how long an example takes says more about the machine's other work than about the code.
settings.register_profile("wardround", deadline=None, database=None)
settings.load_profile("wardround")
