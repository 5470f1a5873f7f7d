"""Jobs on other machines: send a commit by git, prepare and start the job there, and merge its changes here.

What a job reports to the tracking server is in `histocae.tracking.jobs`.
"""
