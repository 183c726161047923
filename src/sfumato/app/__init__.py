"""The local page: choose data, see the plan, run, look at the release; for one browser.

``server`` starts it, ``access`` lets nobody else in, ``pages`` answers, ``places`` holds the
allowed folders, ``choices`` what may be asked for. The command line does all the work: short
commands in a ``worker`` process, each ``synthesize`` as a ``child`` that ``runs`` starts and
watches.
"""
