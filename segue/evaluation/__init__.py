"""Pure measurement: VAL at FAR, ROC, verification, identification, compatibility, the gate.

Nothing here knows files of faces, models or galleries: vectors and labels in, values out.
"""
