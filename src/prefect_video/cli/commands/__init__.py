"""Commands of `prefect-video`, a file each, which the application imports when the command is given.

A command may import what the command line may, and another command that it continues; what several share is beside
this folder.
"""
