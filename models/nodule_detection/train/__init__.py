"""Training of the reference detector on synthetic nodules in given CT backgrounds.

    python -m models.nodule_detection.train --backgrounds DIR --out FOLDER --seed N

Nothing of it runs at inference.
"""
